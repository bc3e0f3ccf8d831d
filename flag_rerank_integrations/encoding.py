"""Texts to token ids: repair and cap the text, tokenize each distinct text once, join, cut.

Pairs are joined from ids by the tokenizer's own template and cut by slicing. Nothing is
ever decoded and tokenized again, and the tokenizer's truncation settings, which are shared
by all threads, are never touched.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tokenizers import Encoding, Tokenizer

from flag_rerank_integrations.errors import ModelLoadError
from flag_rerank_integrations.pairs import EncodedPair, Pair
from flag_rerank_integrations.windows import Windows

__all__ = ["PairEncoder", "PairTemplate", "TextEncoder", "TokenizedText", "repair"]

logger: Final = logging.getLogger(__name__)

# Characters a text may have for each token that can be read, before it is cut unread.
# Real text has 1 to 6; the first cap is generous, the second is for runs of white space.
_CHARACTERS_PER_TOKEN = (16, 256)
_LEAST_CHARACTERS = 1024
_MOSTLY_UNKNOWN = 0.5
_LEAST_TOKENS_TO_JUDGE = 4


def repair(text: str) -> str:
    """Replace lone surrogates, which no tokenizer can encode, with U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """The ids of one text, without special tokens."""

    ids: list[int]
    unread_tokens: int = 0
    """Estimated tokens of the part of an oversized text that was not tokenized."""


class TextEncoder:
    """Tokenizes batches of texts, each distinct one once.

    Args:
        tokenizer: This encoder's own copy; its padding and truncation are switched off.
        special_tokens: "plain" reads a literal "</s>" as text, as `split_special_tokens` of
            transformers does; "parse" reads it as the token; "escape" takes it apart first.
            Unigram vocabularies, XLM-R's among them, list "</s>" as an ordinary piece, which
            "plain" finds like any other; only "escape" keeps their special ids out of a text.
    """

    def __init__(self, tokenizer: Tokenizer, *, special_tokens: str = "plain") -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = special_tokens != "parse"
        self.tokenizer: Tokenizer = tokenizer
        self._literals = _special_literals(tokenizer) if special_tokens == "escape" else None
        self._unknown_id = _unknown_id(tokenizer)
        self._warned_unknown = False

    def encode(self, limits: Mapping[str, int]) -> dict[str, TokenizedText]:
        """Return the ids of each text, at least the first `limits[text]` of each.

        Texts far longer than so many tokens can need are cut by characters first:
        tokenizing ten megabytes takes half a minute, and all but the head is thrown away.
        """
        distinct = list(limits)
        done: dict[str, TokenizedText] = {}
        for ratio in _CHARACTERS_PER_TOKEN:
            caps = [ratio * limits[text] + _LEAST_CHARACTERS for text in distinct]
            heads = [self._prepared(text[:cap]) for text, cap in zip(distinct, caps, strict=True)]
            encodings = self.tokenizer.encode_batch_fast(heads, add_special_tokens=False)
            again = []
            for text, cap, encoding in zip(distinct, caps, encodings, strict=True):
                done[text] = _with_estimate(encoding.ids, len(text), cap)
                if len(text) > cap and len(encoding) < limits[text]:
                    again.append(text)
            if not again:
                break
            distinct = again
        self._warn_if_unknown(done.values())
        return done

    def encode_pairs(
        self, pairs: Iterable[Pair], query_limit: int, passage_limit: int
    ) -> list[tuple[TokenizedText, TokenizedText]]:
        """Return the ids of both texts of each pair, all tokenized in one go: each go wakes the tokenizer's threads."""
        texts = list(pairs)
        limits = dict.fromkeys((passage for _, passage in texts), passage_limit)
        for query, _ in texts:
            limits[query] = max(query_limit, limits.get(query, 0))
        done = self.encode(limits)
        return [(done[query], done[passage]) for query, passage in texts]

    def _prepared(self, text: str) -> str:
        text = repair(text)
        # A space behind the first character is enough to break "</s>" into ordinary pieces.
        return text if self._literals is None else self._literals.sub(lambda m: f"{m[0][0]} {m[0][1:]}", text)

    def ids(self, text: str) -> list[int]:
        """Return the ids of one short text, such as a prompt, without special tokens."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _warn_if_unknown(self, texts: Iterable[TokenizedText]) -> None:
        """Say once that the tokenizer does not know the language of what it is given."""
        if self._warned_unknown or self._unknown_id is None:
            return
        for text in texts:
            unknown = text.ids.count(self._unknown_id)
            if len(text.ids) >= _LEAST_TOKENS_TO_JUDGE and unknown > _MOSTLY_UNKNOWN * len(text.ids):
                self._warned_unknown = True
                logger.warning(
                    "%d of %d tokens of a text are unknown to this model's tokenizer: the model was not made "
                    "for this language, and its ranking will mean little.",
                    unknown,
                    len(text.ids),
                )
                return


def _special_literals(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    """Return a pattern that finds any special token written out, longest first."""
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    literals = sorted((text for text in special if len(text) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, literals))) if literals else None


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    for attribute in ("unk_token", "unk_id"):
        value = getattr(tokenizer.model, attribute, None)
        if isinstance(value, int):
            return value
        if isinstance(value, str):
            unknown: int | None = tokenizer.token_to_id(value)
            return unknown
    return next((i for i in map(tokenizer.token_to_id, ("[UNK]", "<unk>")) if i is not None), None)


def _with_estimate(ids: list[int], characters: int, cap: int) -> TokenizedText:
    """Pair ids with an estimate for the part behind the cap, at the rate of the part before it."""
    if characters <= cap:
        return TokenizedText(ids)
    return TokenizedText(ids, unread_tokens=max(1, round((characters - cap) * len(ids) / cap)))


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """What a tokenizer puts before, between and after the two texts of a pair."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[int, int, int, int, int]
    """Token types of: before, query, between, passage, after."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> PairTemplate:
        """Read the template off the tokenizer's own post-processor.

        Raises:
            ModelLoadError: The tokenizer does not lay pairs out as query, then passage.
        """
        encoding = tokenizer.encode("a", "b", add_special_tokens=True)
        owners = encoding.sequence_ids
        if 0 not in owners or 1 not in owners:
            msg = "The tokenizer gives no tokens for one-letter texts: it cannot be used for pairs."
            raise ModelLoadError(msg)
        query, passage = _span(owners, 0), _span(owners, 1)
        if query[1] > passage[0]:
            msg = "The tokenizer puts the second text of a pair first; this layout is not supported."
            raise ModelLoadError(msg)
        parts = (slice(0, query[0]), slice(query[1], passage[0]), slice(passage[1], None))
        before, between, after = (tuple(encoding.ids[part]) for part in parts)
        return cls(before, between, after, _part_types(encoding, query, passage))

    @property
    def size(self) -> int:
        """How many special tokens a pair has."""
        return len(self.before) + len(self.between) + len(self.after)

    def join(self, query: Sequence[int], passage: Sequence[int]) -> list[int]:
        """Return the ids of the whole pair."""
        return [*self.before, *query, *self.between, *passage, *self.after]

    def join_types(self, query_length: int, passage_length: int) -> list[int]:
        """Return the token types of a pair whose texts have these lengths in tokens."""
        lengths = (len(self.before), query_length, len(self.between), passage_length, len(self.after))
        return [kind for kind, length in zip(self.types, lengths, strict=True) for _ in range(length)]


def _span(owners: Sequence[int | None], owner: int) -> tuple[int, int]:
    """Return start and end of the tokens that belong to one text."""
    start = owners.index(owner)
    end = len(owners) - list(reversed(owners)).index(owner)
    return start, end


def _part_types(encoding: Encoding, query: tuple[int, int], passage: tuple[int, int]) -> tuple[int, int, int, int, int]:
    types = encoding.type_ids
    of_query, of_passage = types[query[0]], types[passage[0]]
    before = types[0] if query[0] > 0 else of_query
    between = types[query[1]] if passage[0] > query[1] else of_query
    after = types[-1] if passage[1] < len(types) else of_passage
    return before, of_query, between, of_passage, after


class PairEncoder:
    """Lays pairs out for an encoder model: specials, query, specials, passage, specials.

    The query comes first: it keeps up to `query_max_length` tokens, and always leaves the
    passage room for at least one. The passage gets what is left.

    Args:
        tokenizer: This encoder's own copy; its padding and truncation are switched off.
        max_length: Most tokens of a pair, special tokens included.
        query_max_length: Most tokens of the query; None is three quarters of `max_length`.
        special_tokens: "plain", "parse" or "escape"; see `TextEncoder`.
        token_types: Whether the model reads token types.
        instruction: Text put before every query.
        windows: How a passage is read that does not fit; by default its head is.
    """

    def __init__(  # noqa: PLR0913 - options of one layout
        self,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        query_max_length: int | None = None,
        special_tokens: str = "plain",
        token_types: bool = True,
        instruction: str | None = None,
        windows: Windows | None = None,
    ) -> None:
        self.texts: TextEncoder = TextEncoder(tokenizer, special_tokens=special_tokens)
        self.template: PairTemplate = PairTemplate.of(tokenizer)
        self.max_length: int = max_length
        self._room = max_length - self.template.size
        wanted = max_length * 3 // 4 if query_max_length is None else query_max_length
        self.query_max_length: int = max(0, min(wanted, self._room - 1))
        self.reads_types: bool = token_types
        self._windows = windows or Windows()
        self._instruction = instruction or ""

    def encode(self, pairs: Sequence[Pair]) -> list[EncodedPair]:
        """Tokenize pairs, each distinct text once, and cut them to fit; same order."""
        texts = ((self._instruction + query, passage) for query, passage in pairs)
        tokenized = self.texts.encode_pairs(texts, self.query_max_length, self._windows.reach(self._room))
        return [self._join(query, passage) for query, passage in tokenized]

    def _join(self, query: TokenizedText, passage: TokenizedText) -> EncodedPair:
        query_ids = query.ids[: self.query_max_length]
        spans = self._windows.spans(len(passage.ids), self._room - len(query_ids))
        ids = [self.template.join(query_ids, passage.ids[span]) for span in spans]
        types = self.template.join_types(len(query_ids), spans[0].stop) if self.reads_types else None
        return EncodedPair(
            ids[0],
            types,
            truncated_tokens=len(passage.ids) - spans[-1].stop + passage.unread_tokens,
            rest=tuple(EncodedPair(window, types) for window in ids[1:]),  # all as long as the first
            truncated_query_tokens=len(query.ids) - len(query_ids) + query.unread_tokens,
        )
