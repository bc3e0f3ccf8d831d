"""One caller's request on its way through an executor."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from flag_rerank_integrations.errors import WorkerError
from flag_rerank_integrations.executors.base import OnProgress
from flag_rerank_integrations.pairs import SCORE, Pair, ScoredPairs, Task

__all__ = ["Request", "closed_error", "forked_error"]


@dataclass(eq=False, slots=True)
class Request:
    """One caller's pairs, its answer so far, and the future it waits on."""

    pairs: Sequence[Pair]
    on_progress: OnProgress | None = None
    future: Future[ScoredPairs] = field(default_factory=Future)
    task: Task = SCORE
    logits: list[float] = field(init=False)
    truncated_tokens: list[int | None] = field(init=False)
    layers: list[int] = field(init=False)
    missing: int = field(init=False)

    def __post_init__(self) -> None:
        """Make room for the answer."""
        count = self.task.places(len(self.pairs))
        self.logits, self.truncated_tokens, self.layers, self.missing = [0.0] * count, [0] * count, [0] * count, count

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the answer: it was cancelled, or it has failed already."""
        return self.future.done()

    def put(self, index: int, logit: float, truncated_tokens: int | None, layer: int = 0) -> None:
        """Take one score."""
        self.logits[index], self.truncated_tokens[index], self.layers[index] = logit, truncated_tokens, layer
        self.missing -= 1

    def report(self, count: int) -> None:
        """Say how many scores were just put, and hand the answer over once all are."""
        if self.on_progress is not None and not self.abandoned:
            self.on_progress(count)
        if self.missing == 0:
            layers = self.layers if self.task.counts else None
            self._settle(ScoredPairs(self.logits, self.truncated_tokens, layers))

    def fail(self, error: BaseException) -> None:
        """Hand an error over, unless there is an answer already or the caller has left."""
        self._settle(error)

    def _settle(self, outcome: ScoredPairs | BaseException) -> None:
        """Set the future's outcome; one that is cancelled at this very moment stays cancelled."""
        if self.future.done() or not self.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


def closed_error() -> WorkerError:
    """Return what a caller gets whose request was still open when its Reranker was closed."""
    return WorkerError("This Reranker was closed before the request was done.")


def forked_error(process: int) -> WorkerError:
    """Return what a forked child gets that uses its parent's Reranker."""
    return WorkerError(
        f"This Reranker was started in process {process}, and its threads did not survive the fork. "
        f"Make one after forking; copy.deepcopy() of this one starts afresh."
    )
