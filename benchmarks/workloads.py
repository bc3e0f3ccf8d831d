"""Real text cut to a lognormal distribution of lengths: the same for every system, and for every run."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from statistics import NormalDist
from typing import Any, Final

__all__ = [
    "DEFAULT_WORKLOADS",
    "MAX_LENGTH",
    "Request",
    "Workload",
    "fingerprint",
    "fixed_request",
    "parse",
    "short_requests",
]

Request = tuple[str, list[str]]
"""A query and its passages."""

MAX_LENGTH: Final = 512
DEFAULT_WORKLOADS: Final = ("1x5", "1x40", "1x100", "4x50", "20x100")
LONGEST_CAUSAL: Final = 496
"""Leaves room for what a causal model's layout puts between the texts: longer passages would be cut."""
# Tokens of a pair, special tokens included: median 113, nine in ten at most 275, none above 512.
_MEDIAN: Final = 113
_NINETIETH: Final = 275
_SPREAD: Final = math.log(_NINETIETH / _MEDIAN) / NormalDist().inv_cdf(0.9)
_QUERY_TOKENS: Final = (6, 20)
_SPECIALS: Final = 4
_SHORTEST_PASSAGE: Final = 4


@dataclass(frozen=True, slots=True)
class Workload:
    """So many queries with so many passages each."""

    queries: int
    passages: int

    def __str__(self) -> str:
        """Write it as it is asked for, such as "4x50"."""
        return f"{self.queries}x{self.passages}"

    def requests(self, tokenizer: Any, longest: int = MAX_LENGTH) -> list[Request]:  # noqa: ANN401 - transformers' tokenizers share no typed base
        """Make the texts.

        The lengths are the distribution's quantiles in a shuffled order, not draws: a workload
        of five pairs is then as typical as one of two thousand. Equal workloads have equal texts.

        Args:
            tokenizer: Of the model to be measured: lengths are counted in its tokens.
            longest: Most tokens of a pair. See `LONGEST_CAUSAL`.
        """
        chance = random.Random(f"{self}")
        source = _Source(tokenizer, chance)
        lengths = pair_lengths(self.queries * self.passages, longest)
        chance.shuffle(lengths)
        remaining = iter(lengths)
        requests = []
        for _ in range(self.queries):
            query_tokens = chance.randint(*_QUERY_TOKENS)
            rooms = [length - query_tokens - _SPECIALS for length in islice(remaining, self.passages)]
            passages = [source.text(max(_SHORTEST_PASSAGE, room)) for room in rooms]
            requests.append((source.text(query_tokens), passages))
        return requests


def short_requests(tokenizer: Any, count: int, passages: int, tokens: int) -> list[Request]:  # noqa: ANN401 - as above
    """Make small requests of one size, no two alike.

    Args:
        tokenizer: Of the model to be measured.
        count: How many.
        passages: Of each query.
        tokens: Of each passage.
    """
    source = _Source(tokenizer, random.Random("short"))
    return [(source.text(8), [source.text(tokens) for _ in range(passages)]) for _ in range(count)]


def fixed_request(tokenizer: Any, query_tokens: int, passages: int, tokens: int) -> Request:  # noqa: ANN401 - as above
    """Make one request of a query and passages of given lengths."""
    source = _Source(tokenizer, random.Random("fixed"))
    return source.text(query_tokens), [source.text(tokens) for _ in range(passages)]


def parse(name: str) -> Workload:
    """Read a workload such as "4x50": 4 queries with 50 passages each.

    Raises:
        ValueError: It is not of that form.
    """
    queries, _, passages = name.partition("x")
    if not (queries.isdecimal() and passages.isdecimal() and int(queries) and int(passages)):
        msg = f"A workload is QUERIESxPASSAGES, such as 4x50, not {name!r}."
        raise ValueError(msg)
    return Workload(int(queries), int(passages))


def pair_lengths(count: int, longest: int = MAX_LENGTH) -> list[int]:
    """Return the lengths of pairs in tokens: evenly spaced quantiles of the lognormal distribution."""
    normal = NormalDist(math.log(_MEDIAN), _SPREAD)
    lengths = (round(math.exp(normal.inv_cdf((i + 0.5) / count))) for i in range(count))
    return [min(length, longest) for length in lengths]


def fingerprint(requests: Sequence[Request]) -> str:
    """Return a short hash of the texts: results with equal ones were measured on equal texts."""
    return hashlib.sha256(repr(requests).encode()).hexdigest()[:16]


@cache
def _entries() -> tuple[str, ...]:
    from flag_rerank_integrations.demo.corpus import harvest

    return tuple(entry.text.replace("\n", " ") for entry in harvest())


class _Source:
    """Cuts texts of given lengths out of the standard library's docstrings."""

    def __init__(self, tokenizer: Any, chance: random.Random) -> None:  # noqa: ANN401 - as above
        self._tokenizer = tokenizer
        self._order = list(range(len(_entries())))
        chance.shuffle(self._order)
        self._next = 0

    def text(self, tokens: int) -> str:
        """Return docstrings, one after the other from where the last text ended, cut to so many tokens."""
        parts: list[str] = []
        missing = tokens
        while missing > 0:
            entry = _entries()[self._order[self._next % len(self._order)]]
            self._next += 1
            encoded = self._tokenizer(entry, add_special_tokens=False, return_offsets_mapping=True)
            offsets = encoded["offset_mapping"]
            parts.append(entry if len(offsets) <= missing else entry[: offsets[missing - 1][1]])
            missing -= len(offsets)
        return " ".join(parts)
