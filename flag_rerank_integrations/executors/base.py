"""The seam between a Reranker and whoever computes: one verb, `submit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from flag_rerank_integrations.pairs import SCORE, Pair, ScoredPairs, Task
from flag_rerank_integrations.results import RerankStats

__all__ = ["Executor", "OnProgress"]

OnProgress = Callable[[int], None]
"""Told, from a worker's thread, how many more scores are there."""


class Executor(Protocol):
    """Computes logits somewhere: in this process, in child processes, in a cluster."""

    def submit(
        self, pairs: Sequence[Pair], on_progress: OnProgress | None = None, task: Task = SCORE
    ) -> Future[ScoredPairs]:
        """Queue pairs, from any thread, and return at once; cancelling the future frees queued work."""
        ...

    def stats(self) -> RerankStats:
        """Return a snapshot of the work done."""
        ...

    def close(self) -> None:
        """Stop, fail what is still queued with `WorkerError`, free the device; safe twice."""
        ...
