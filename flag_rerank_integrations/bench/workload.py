"""What is scored while measuring: the same requests for every setting, drawn from the user's own texts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from flag_rerank_integrations.errors import ConfigError, InputError

__all__ = ["DEFAULT_PAIRS", "DEFAULT_PASSAGES", "Request", "Workload", "paired"]

DEFAULT_PASSAGES: Final = 20
DEFAULT_PAIRS: Final = 100
_SEED: Final = 0

Request = tuple[str, Sequence[str]]
"""A query and its passages."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests to measure with."""

    requests: tuple[Request, ...]
    source: str = "texts of your own"
    """Where the texts come from, in a few words."""

    @property
    def pairs(self) -> int:
        """How many pairs all requests have together."""
        return sum(len(passages) for _, passages in self.requests)

    @property
    def passages(self) -> int:
        """How many passages a request has: the median, should they differ."""
        return round(median(len(passages) for _, passages in self.requests))

    @classmethod
    def sample(
        cls,
        requests: Iterable[Request],
        *,
        passages: int = DEFAULT_PASSAGES,
        pairs: int = DEFAULT_PAIRS,
        source: str = "texts of your own",
    ) -> Workload:
        """Draw requests at random, the same ones every time.

        Args:
            requests: Queries, each with its passages. A longer list of passages becomes several requests with
                the same query; empty passages, and ones that a query has twice, are left out.
            passages: Most passages in one request.
            pairs: As many requests are drawn as it takes to have so many pairs, or all there are.
            source: Where they come from.

        Raises:
            ConfigError: `passages` or `pairs` is less than 1.
            InputError: There is nothing to score.
        """
        for name, value in (("passages", passages), ("pairs", pairs)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                msg = f"{name} must be a whole number of at least 1, not {value!r}."
                raise ConfigError(msg)
        found = [request for query, texts in requests for request in _cut(query, texts, passages)]
        if not found:
            msg = "There are no passages to measure with."
            raise InputError(msg)
        random.Random(_SEED).shuffle(found)  # noqa: S311 - a draw, not a secret
        chosen: list[Request] = []
        count = 0
        for request in found:
            if count >= pairs:
                break
            chosen.append(request)
            count += len(request[1])
        return cls(tuple(chosen), source)


def paired(queries: Sequence[str], texts: Sequence[str], passages: int = DEFAULT_PASSAGES) -> Iterator[Request]:
    """Combine queries with passages that belong to none of them: speed asks only how long they are.

    Args:
        queries: Each is used about as often as any other.
        texts: Passages; each stands in one request, or in several if there are more queries than that makes.
        passages: How many passages a request gets.

    Raises:
        InputError: There are no queries, or no passages.
    """
    if not queries or not texts:
        msg = f"There are no {'passages' if queries else 'queries'} to measure with."
        raise InputError(msg)
    shuffled = random.Random(_SEED).sample(list(texts), len(texts))  # noqa: S311 - as above
    parts = [shuffled[start : start + passages] for start in range(0, len(shuffled), passages)]
    if len(parts) > 1 and len(parts[-1]) < passages:
        del parts[-1]
    for number in range(max(len(queries), len(parts))):
        yield queries[number % len(queries)], parts[number % len(parts)]


def _cut(query: str, texts: Sequence[str], passages: int) -> Iterator[Request]:
    """Yield requests of so many passages; what is left over counts only where there is nothing else."""
    distinct = list(dict.fromkeys(text for text in texts if text.strip()))
    for start in range(0, len(distinct), passages):
        part = tuple(distinct[start : start + passages])
        if start == 0 or len(part) == passages:
            yield query, part
