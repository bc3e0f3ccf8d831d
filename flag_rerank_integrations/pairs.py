"""The unit of work: a pair of texts, and the same pair as the model will read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["EncodedPair", "Layout", "Pair", "ScoredPairs"]

Pair = tuple[str, str]
"""(query, passage)."""
Layout = Literal["packed", "padded", "single"]
"""How pairs of one batch share forward passes: end to end without padding, padded to the longest, or not at all."""


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """One pair as the model will read it."""

    ids: Sequence[int]
    """Token ids, special tokens included; never longer than the family's `max_length`."""
    type_ids: Sequence[int] | None = None
    """Token types, as long as `ids`; None where the model has none."""
    truncated_tokens: int = 0
    """Tokens of the passage that did not fit."""

    def __len__(self) -> int:
        """Return the length in tokens."""
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """Logits and what was cut, in the order of the pairs that were asked for."""

    logits: list[float]
    truncated_tokens: Sequence[int | None]
    """None where whoever scored does not tell."""
