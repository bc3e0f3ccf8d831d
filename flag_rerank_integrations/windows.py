"""Long passages in windows: where the windows lie, and how their logits become one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.pairs import EncodedPair

__all__ = ["WindowScores", "Windows"]


@dataclass(frozen=True, slots=True)
class Windows:
    """Where the windows of a passage lie; by default there is one, its head.

    Args:
        overlap: Least share of a window that it has in common with the next, 0 to below 1.
        most: Most windows of one passage.
    """

    overlap: float = 0.0
    most: int = 1

    @classmethod
    def of(cls, config: RerankConfig) -> Windows:
        """Return how passages are to be read."""
        if config.long_passages != "windows" or config.window_aggregation == "first":
            return cls()
        return cls(config.window_overlap, config.max_windows)

    def reach(self, room: int) -> int:
        """Return how many tokens of a passage are read at most, where a window holds `room`."""
        return room + (self.most - 1) * self._stride(room)

    def spans(self, tokens: int, room: int) -> list[slice]:
        """Return the windows of a passage, in order.

        Windows are as few as the overlap allows and lie evenly, the last one ending with what is
        read: all are full, so no score rests on the few tokens that a division would leave over.

        Args:
            tokens: Length of the passage.
            room: Tokens of a passage that a window holds, at least 1.
        """
        if tokens <= room:
            return [slice(0, tokens)]
        last = min(tokens, self.reach(room)) - room
        gaps = math.ceil(last / self._stride(room))
        starts = [round(last * i / gaps) for i in range(gaps)]
        return [slice(start, start + room) for start in (*starts, last)]

    def _stride(self, room: int) -> int:
        return max(1, math.floor(room * (1 - self.overlap)))


class WindowScores:
    """The windows of many pairs in one list, and their logits on the way to one per pair.

    Args:
        pairs: Pairs, each with the rest of its windows.
        aggregation: "max" or "mean" of a pair's logits. Of a single one either is that one.
    """

    def __init__(self, pairs: Sequence[EncodedPair], aggregation: str) -> None:
        self.windows: list[EncodedPair] = [window for pair in pairs for window in (pair, *pair.rest)]
        self.owners: list[int] = [i for i, pair in enumerate(pairs) for _ in range(1 + len(pair.rest))]
        self._pairs = pairs
        self._mean = aggregation == "mean"
        self._logits: dict[int, list[tuple[float, ...]]] = {}

    def take(self, indices: Sequence[int], logits: Sequence[tuple[float, ...]]) -> dict[int, tuple[float, ...]]:
        """Take the logits of some windows; return those of the pairs that are complete by now.

        Args:
            indices: Where the windows stand in `windows`.
            logits: The logits of each: one, or one for each layer that is read.

        Returns:
            The logits of each complete pair, by its index. Where any window's is not finite, neither is the pair's.
        """
        done = {}
        for index, logit in zip(indices, logits, strict=True):
            owner = self.owners[index]
            parts = self._logits.setdefault(owner, [])
            parts.append(logit)
            if len(parts) > len(self._pairs[owner].rest):
                done[owner] = tuple(map(self._aggregate, zip(*self._logits.pop(owner), strict=True)))
        return done

    def _aggregate(self, logits: Sequence[float]) -> float:
        """Bring logits into one, in a way that does not depend on their order."""
        if not all(map(math.isfinite, logits)):
            return math.nan
        return fmean(logits) if self._mean else max(logits)
