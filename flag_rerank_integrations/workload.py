"""Encoded pairs on their way to scores: the windows to run, and who waits for what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from flag_rerank_integrations.pairs import EncodedPair, ScoredBatch
from flag_rerank_integrations.score_cache import ScoreCache
from flag_rerank_integrations.windows import WindowScores

__all__ = ["Workload"]


class Workload:
    """Distinct pairs of one call.

    Args:
        pairs: The pairs, encoded.
        places: For each, where in the call it was asked for.
        count: How many pairs the whole call has: a second layer's scores begin there.
        aggregation: How windows become one score; see `WindowScores`.
        cache: Remembers scores from one call to the next.
    """

    def __init__(
        self,
        pairs: Sequence[EncodedPair],
        places: Sequence[Sequence[int]],
        count: int,
        aggregation: str,
        cache: ScoreCache,
    ) -> None:
        self.pairs: Sequence[EncodedPair] = pairs
        self.known: dict[int, tuple[float, ...]] = cache.find(pairs)
        self._places = places
        self._count = count
        self._scores = WindowScores(pairs, aggregation)
        self._cache = cache

    @property
    def windows(self) -> Sequence[EncodedPair]:
        """What is to be run: most pairs are one window."""
        return self._scores.windows

    @property
    def unknown(self) -> list[int]:
        """The indices of the windows of those pairs whose score is not remembered."""
        return [index for index, owner in enumerate(self._scores.owners) if owner not in self.known]

    def wanted(self, batch: Sequence[int], wanted: Callable[[int], bool]) -> list[int]:
        """Leave out the windows of pairs that nobody waits for any more."""
        return [index for index in batch if any(map(wanted, self._places[self._scores.owners[index]]))]

    def take(self, batch: Sequence[int], logits: Sequence[tuple[float, ...]]) -> dict[int, tuple[float, ...]]:
        """Take the logits of windows; return those of the pairs that are complete by now."""
        done = self._scores.take(batch, logits)
        for index, rows in done.items():
            self._cache.keep(self.pairs[index], rows)
        return done

    def answer(self, logits: Mapping[int, tuple[float, ...]]) -> ScoredBatch:
        """Give the logits of distinct pairs to every place that asked for them."""
        result = ScoredBatch([], [], [])
        for index, rows in logits.items():
            for row, logit in enumerate(rows):
                places = [row * self._count + place for place in self._places[index]]
                result.indices.extend(places)
                result.logits.extend([logit] * len(places))
                result.truncated_tokens.extend([self.pairs[index].truncated_tokens] * len(places))
                result.tokens.extend([self.pairs[index].tokens] * len(places))
        return result
