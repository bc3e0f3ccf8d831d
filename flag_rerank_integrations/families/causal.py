"""Language models as rerankers: the logit of "Yes" at the last position, as in bge-reranker-v2-gemma."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.encoding import TextEncoder, TokenizedText
from flag_rerank_integrations.families.checkpoint import Checkpoint, effective_max_length, position_limit
from flag_rerank_integrations.families.decoder_stack import use_decoder_layers, use_last_token_layer
from flag_rerank_integrations.families.loading import Stopwatch, check_vocabulary, load_model, load_tokenizer
from flag_rerank_integrations.families.prompts import prompt_text
from flag_rerank_integrations.families.quantization import quantizes_after_load
from flag_rerank_integrations.families.torch_family import TorchFamily
from flag_rerank_integrations.packing import PackedLayout, current_layout
from flag_rerank_integrations.pairs import EncodedPair, Pair
from flag_rerank_integrations.windows import Windows

__all__ = ["DEFAULT_PROMPT", "CausalEncoder", "CausalFamily", "load"]

# Prompt and layout are those the published weights were trained with: the model card of
# BAAI/bge-reranker-v2-gemma and FlagEmbedding 1.4.2's FlagLLMReranker.
DEFAULT_PROMPT: Final = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query "
    "by providing a prediction of either 'Yes' or 'No'."
)
_ANSWER: Final = "Yes"


def load(checkpoint: Checkpoint, config: RerankConfig, device: Device) -> CausalFamily:
    """Load a causal language model and keep one row of its head.

    Raises:
        ConfigError: A length that the model cannot take.
        ModelLoadError: The checkpoint is no such model.
    """
    stopwatch = Stopwatch()
    with stopwatch.step("tokenizer"):
        tokenizer = load_tokenizer(checkpoint, config)
        encoder = CausalEncoder(
            tokenizer.backend_tokenizer,
            bos_id=_bos_id(tokenizer),
            prompt=prompt_text(config, DEFAULT_PROMPT),
            special_tokens=config.special_tokens,
            instruction=config.instruction,
            windows=Windows.of(config),
            passage_instruction=config.passage_instruction,
        )
    limit = position_limit(checkpoint.config)
    room = None if limit is None else limit - 2 * encoder.tail_length
    encoder.cut_to(effective_max_length(config, room), config.query_max_length)
    with stopwatch.step("weights"):
        model = load_model(transformers.AutoModelForCausalLM, checkpoint, config, device)
        check_vocabulary(model, tokenizer, config)
        _keep_one_row(model, encoder.texts.ids(_ANSWER)[0])
    family = CausalFamily(model, encoder, device, stopwatch)
    with stopwatch.step("self-check"):
        family.choose_layout()
        if quantizes_after_load(config, device):
            family.quantize(config.model)
    return family


# Sharing costs a copy of keys and values for each pair; it is worth that where it saves as many
# tokens in all as a short passage has (benchmarks/causal.py).
_LEAST_TOKENS_SAVED: Final = 32
_SAMPLE_HEAD: Final = 40


def worth_sharing(head: int, pairs: int) -> int:
    """Return how many tokens of a common head to compute once for so many pairs: all of them, or none."""
    return head if head * (pairs - 1) >= _LEAST_TOKENS_SAVED else 0


@dataclass(frozen=True, slots=True)
class _Lengths:
    query: int
    body: int


class CausalEncoder:
    r"""Lays pairs out as `bos "A: "query \n "B: "passage \n prompt`, from ids.

    `max_length` limits the texts, as in the reference: bos, query, separator and passage get at
    most `max_length` tokens and the length of one separator and prompt; separator and prompt
    come behind that. The passage is what is cut, to no less than one token.

    Args:
        tokenizer: This encoder's own copy.
        bos_id: The token every pair begins with, if any.
        prompt: The task, put last.
        special_tokens: "plain", "parse" or "escape"; see `TextEncoder`.
        instruction: Text put before every query.
        windows: How a passage is read that does not fit; by default its head is.
        passage_instruction: Text put before every passage.
    """

    def __init__(  # noqa: PLR0913 - options of one layout
        self,
        tokenizer: Tokenizer,
        *,
        bos_id: int | None,
        prompt: str = DEFAULT_PROMPT,
        special_tokens: str = "plain",
        instruction: str | None = None,
        windows: Windows | None = None,
        passage_instruction: str | None = None,
    ) -> None:
        self.texts: TextEncoder = TextEncoder(tokenizer, special_tokens=special_tokens)
        self._start = [] if bos_id is None else [bos_id]
        self._separator = self.texts.ids("\n")
        self._tail = self._separator + self.texts.ids(prompt)
        self._label = self.texts.ids("B:")
        self._instruction = instruction or ""
        self._windows = windows or Windows()
        self._passage_instruction = passage_instruction or ""
        self._lengths = _Lengths(query=0, body=0)
        self.max_length: int = 0

    @property
    def tail_length(self) -> int:
        """Tokens of the separator and the prompt."""
        return len(self._tail)

    def cut_to(self, max_length: int, query_max_length: int | None) -> None:
        """Set the lengths; the longest pair has `max_length + 2 * tail_length` tokens."""
        body = max_length + self.tail_length
        wanted = max_length * 3 // 4 if query_max_length is None else query_max_length
        room_for_query = body - len(self._start) - len(self._separator) - 1
        self._lengths = _Lengths(query=min(wanted, room_for_query), body=body)
        self.max_length = body + self.tail_length

    def encode(self, pairs: Sequence[Pair]) -> list[EncodedPair]:
        """Tokenize pairs, each distinct text once, and cut them to fit; same order."""
        texts = ((self._query(query), self._passage(passage)) for query, passage in pairs)
        tokenized = self.texts.encode_pairs(texts, self._lengths.query, self._windows.reach(self._lengths.body))
        return [self._join(query, passage) for query, passage in tokenized]

    def _query(self, query: str) -> str:
        return f"A: {self._instruction}{query}"

    def _passage(self, passage: str) -> str:
        return f"B: {self._passage_instruction}{passage}"

    def _join(self, query: TokenizedText, passage: TokenizedText) -> EncodedPair:
        head = [*self._start, *query.ids[: self._lengths.query], *self._separator]
        room = min(self.max_length - 2 * self.tail_length, self._lengths.body - len(head))
        label, text = self._split(passage.ids, room)
        spans = self._windows.spans(len(text), room - len(label))
        windows = [[*head, *label, *text[span], *self._tail] for span in spans]
        return EncodedPair(
            windows[0],
            truncated_tokens=len(text) - spans[-1].stop + passage.unread_tokens,
            head_tokens=len(head),
            rest=tuple(EncodedPair(window, head_tokens=len(head)) for window in windows[1:]),
            truncated_query_tokens=max(0, len(query.ids) - self._lengths.query) + query.unread_tokens,
        )

    def _split(self, passage: list[int], room: int) -> tuple[list[int], list[int]]:
        """Take the tokens of "B:" off a passage, as far as they stand by themselves: every window has them."""
        most = min(len(self._label), room - 1)
        own = next((i for i in range(most) if passage[i : i + 1] != self._label[i : i + 1]), most)
        return passage[:own], passage[own:]


class CausalFamily(TorchFamily):
    """A causal reranker: one row of the head at one position, nothing of vocabulary size."""

    name = "causal"

    def __init__(self, model: Any, encoder: CausalEncoder, device: Device, stopwatch: Stopwatch) -> None:  # noqa: ANN401 - transformers' models share no typed base
        super().__init__(model, device, encoder.max_length, stopwatch)
        self._encoder = encoder
        self._pad_id = getattr(model.config, "pad_token_id", None) or 0

    def encode(self, pairs: Sequence[Pair]) -> list[EncodedPair]:
        """Tokenize pairs, each distinct text once, and cut them to fit; same order."""
        return self._encoder.encode(pairs)

    def _use_own_layers(self) -> Callable[[], None] | None:
        return use_decoder_layers(self.model)

    def _use_own_last_layer(self) -> Callable[[], None] | None:
        return use_last_token_layer(self.model)

    def _samples(self) -> list[EncodedPair]:
        """Add two pairs that share their beginning to those that are made up for every model."""
        samples = super()._samples()
        first, second = samples[0].ids, samples[1].ids
        head = min(_SAMPLE_HEAD, len(first) - 1)
        pairs = ([*first[:head], *rest] for rest in (first[head:], second[: self.max_length - head]))
        return [*samples, *(EncodedPair(ids, head_tokens=head) for ids in pairs)]

    def _layout(self, batch: Sequence[EncodedPair]) -> PackedLayout:
        return self._shared(batch)[1]

    def _run_packed(self, batch: Sequence[EncodedPair]) -> torch.Tensor:
        layout = current_layout()
        assert layout is not None  # noqa: S101 - set by the only caller
        groups, _ = self._shared(batch)
        rows, positions = [], []
        for head, members in groups:
            if head:
                rows.append(batch[members[0]].ids[:head])
                positions.append(range(head))
            rows.extend(batch[i].ids[head:] for i in members)
            positions.extend(range(head, len(batch[i])) for i in members)
        logits: torch.Tensor = self.model(
            input_ids=self._flat(rows),
            position_ids=self._flat(positions),
            use_cache=False,
            logits_to_keep=0 if self._replaces_layers else layout.last_tokens(self._device),
        ).logits
        order = [i for _, members in groups for i in members]
        return logits[0, :, 0][self._to_device(np.argsort(order))]

    def _shared(self, batch: Sequence[EncodedPair]) -> tuple[list[tuple[int, list[int]]], PackedLayout]:
        """Group pairs by the head they share, (its tokens, their indices), where that saves enough."""
        by_head: dict[tuple[int, ...], list[int]] = {}
        for index, pair in enumerate(batch):
            by_head.setdefault(tuple(pair.ids[: pair.head_tokens]), []).append(index)
        groups = [(worth_sharing(len(head), len(members)), members) for head, members in by_head.items()]
        layout = PackedLayout.sharing([(head, [len(batch[i]) - head for i in members]) for head, members in groups])
        return groups, layout

    def _run_padded(self, batch: Sequence[EncodedPair]) -> torch.Tensor:
        """Pad on the left, so that the last position of every pair is the last column."""
        shape = (len(batch), max(map(len, batch)))
        ids = np.full(shape, self._pad_id, dtype=np.int64)
        mask, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for row, pair in enumerate(batch):
            ids[row, -len(pair) :] = pair.ids
            mask[row, -len(pair) :] = 1
            positions[row, -len(pair) :] = range(len(pair))
        logits: torch.Tensor = self.model(
            input_ids=self._to_device(ids),
            attention_mask=self._to_device(mask),
            position_ids=self._to_device(positions),
            use_cache=False,
            logits_to_keep=1,
        ).logits
        return logits[:, -1, 0]


class _OneRow(torch.nn.Module):
    """A language-model head cut down to one token, in float32."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight.detach().float().clone(), requires_grad=False)
        self.bias = None if bias is None else torch.nn.Parameter(bias.detach().float().clone(), requires_grad=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (..., size) to (..., 1)."""
        return torch.nn.functional.linear(hidden.float(), self.weight, self.bias)


def _keep_one_row(model: Any, token: int) -> None:  # noqa: ANN401 - as above
    """Cut the head to one token's row; the model's own caps and scales of logits still apply."""
    head = model.get_output_embeddings()
    bias = getattr(head, "bias", None)
    rows = slice(token, token + 1)
    model.set_output_embeddings(_OneRow(head.weight[rows], None if bias is None else bias[rows]))


def _bos_id(tokenizer: Any) -> int | None:  # noqa: ANN401 - as above
    """Return the token to begin with: none where it is unset or serves as padding."""
    bos: int | None = tokenizer.bos_token_id
    return None if bos == tokenizer.pad_token_id else bos
