"""The unit of work: a pair of texts, the same pair as the model will read it, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = ["SCORE", "EncodedPair", "Layout", "Pair", "ScoredBatch", "ScoredPairs", "Task"]

Pair = tuple[str, str]
"""(query, passage)."""
Layout = Literal["packed", "padded", "single"]
"""How pairs of one batch share forward passes: end to end without padding, padded to the longest, or not at all."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked of the pairs of one call. Calls of one kind can share batches."""

    layers: tuple[int, ...] = ()
    """Read a score at each of these layers. The answer has one place for each layer and pair, layer by layer."""
    counts: tuple[int, ...] = ()
    """How many pairs, one after the other, form each ranking that prunes itself."""

    @property
    def kind(self) -> tuple[tuple[int, ...], bool]:
        """What calls must have in common to be scored together."""
        return self.layers, bool(self.counts)

    def places(self, pairs: int) -> int:
        """Return how many scores the answer for so many pairs has."""
        return pairs * max(1, len(self.layers))


SCORE: Final = Task()
"""One score for each pair."""


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """One pair as the model will read it."""

    ids: Sequence[int]
    """Token ids, special tokens included; never longer than the family's `max_length`."""
    type_ids: Sequence[int] | None = None
    """Token types, as long as `ids`; None where the model has none."""
    truncated_tokens: int = 0
    """Tokens of the passage that are not read: not here, and in none of `rest`."""
    rest: tuple[EncodedPair, ...] = ()
    """Further windows, where a long passage is read in several: each a pair with the same query."""
    truncated_query_tokens: int = 0
    """Tokens of the query that did not fit."""
    head_tokens: int = 0
    """Tokens before the passage, of a causal layout: special ones, query and separator."""

    def __len__(self) -> int:
        """Return the length in tokens."""
        return len(self.ids)

    @property
    def tokens(self) -> int:
        """Tokens that are read of the pair, in all its windows."""
        return len(self.ids) + sum(map(len, self.rest))


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """What one forward pass gave, for places of the answer named by their index; it may be none."""

    indices: list[int]
    logits: list[float]
    truncated_tokens: list[int]
    layer: int | None = None
    """Where the scores were read, if pairs of one ranking may differ in that."""
    tokens: list[int] = field(default_factory=list)
    """Tokens that are read of each pair."""


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """Logits and what was cut, in the order of the pairs that were asked for."""

    logits: list[float]
    truncated_tokens: Sequence[int | None]
    """None where whoever scored does not tell."""
    layers: list[int] | None = None
    """Where each score was read, if rankings pruned themselves: scores of different layers do not compare."""
    tokens: Sequence[int] = ()
    """Tokens that are read of each pair, special tokens included; 0 where whoever scored does not tell."""
