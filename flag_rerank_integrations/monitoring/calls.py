"""Counts the calls of one reranker: how many, how long, how they ended, and those under way."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from flag_rerank_integrations.monitoring.telemetry import CallSpan, record_duration
from flag_rerank_integrations.pairs import Pair, ScoredPairs
from flag_rerank_integrations.results import CALL_SECONDS_BOUNDS, Histogram, RerankStats

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Call", "Calls"]


class Calls:
    """All calls of one reranker; for use from any thread.

    Args:
        model: What spans call the model; None leaves it out.
    """

    def __init__(self, model: str | None) -> None:
        self.model: str | None = model
        self._lock = threading.Lock()
        self._begun = self._pairs = 0
        self._in_flight = self._pairs_in_flight = 0
        self._errors: Counter[str] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}

    def begin(self) -> None:
        """Count a call that begins."""
        with self._lock:
            self._begun += 1
            self._in_flight += 1

    def ask(self, pairs: int) -> None:
        """Count the pairs of a call, which have proved to be in order."""
        with self._lock:
            self._pairs += pairs
            self._pairs_in_flight += pairs

    def end(self, pairs: int, outcome: str, seconds: float, error: BaseException | None) -> None:
        """Count a call that ends.

        Args:
            pairs: What `ask` was told.
            outcome: "ok", "error" or "cancelled".
            seconds: How long it took.
            error: What it ended with.
        """
        bucket = bisect_left(CALL_SECONDS_BOUNDS, seconds)
        with self._lock:
            self._in_flight -= 1
            self._pairs_in_flight -= pairs
            if outcome == "error":
                self._errors[type(error).__name__] += 1
            counts = self._buckets.setdefault(outcome, [0] * (len(CALL_SECONDS_BOUNDS) + 1))
            counts[bucket] += 1
            self._seconds[outcome] = self._seconds.get(outcome, 0.0) + seconds

    def added_to(self, stats: RerankStats) -> RerankStats:
        """Return an executor's figures together with those of the calls."""
        with self._lock:
            took = {name: Histogram(tuple(counts), self._seconds[name]) for name, counts in self._buckets.items()}
            return replace(
                stats,
                pairs=self._pairs,
                calls=self._begun,
                cancelled_calls=took["cancelled"].count if "cancelled" in took else 0,
                errors=dict(self._errors),
                call_seconds=took,
                calls_in_flight=self._in_flight,
                pairs_in_flight=self._pairs_in_flight,
            )


class Call:
    """One call, from its begin to its end, however it ends.

    Args:
        calls: Where it is counted.
        method: What was called: "score", "rank" or "score_layers".
        top_n: How many passages of a ranking were asked for at most.
        where: Names the devices, once the model is loaded. Asked only if somebody listens.
    """

    __slots__ = ("_calls", "_method", "_pairs", "_span", "_start", "_top_n", "_where")

    def __init__(self, calls: Calls, method: str, top_n: int | None, where: Callable[[], str]) -> None:
        self._calls, self._method, self._top_n, self._where = calls, method, top_n, where
        self._pairs = 0

    def __enter__(self) -> Self:
        """Begin."""
        self._span = CallSpan.begin(self._method, self._calls.model, self._top_n)
        self._calls.begin()
        self._start = time.perf_counter()
        return self

    def ask(self, pairs: Sequence[Pair]) -> None:
        """Note what is asked; once in a call."""
        self._pairs = len(pairs)
        self._calls.ask(self._pairs)
        if self._span is not None:
            self._span.ask(pairs)

    def answer(self, scored: ScoredPairs) -> ScoredPairs:
        """Note what was answered, and pass it on."""
        if self._span is not None:
            self._span.answer(scored, self._pairs)
        return scored

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        seconds = time.perf_counter() - self._start
        outcome = "ok" if error is None else "error" if isinstance(error, Exception) else "cancelled"
        self._calls.end(self._pairs, outcome, seconds, error)
        # While the span is current, so that an exemplar of the duration can point to it.
        attributes = {"method": self._method, "outcome": outcome, "model": self._calls.model}
        record_duration(seconds, attributes, self._where, error)
        if self._span is not None:
            self._span.end(self._where(), error)
