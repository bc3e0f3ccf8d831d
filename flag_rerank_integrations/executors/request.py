"""One caller's request on its way through an executor."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from flag_rerank_integrations.errors import WorkerError
from flag_rerank_integrations.executors.base import OnProgress
from flag_rerank_integrations.pairs import SCORE, Pair, ScoredPairs, Task

__all__ = ["OpenRequests", "Request", "closed_error", "forked_error", "unless_forked"]

logger: Final = logging.getLogger(__name__)


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
    tokens: list[int] = field(init=False)
    missing: int = field(init=False)
    begun: bool = field(default=False, init=False)
    """Whether a worker has taken up any of the pairs."""
    _has: bytearray = field(init=False)

    def __post_init__(self) -> None:
        """Make room for the answer."""
        count = self.task.places(len(self.pairs))
        self.logits, self.truncated_tokens, self.layers, self.missing = [0.0] * count, [0] * count, [0] * count, count
        self.tokens, self._has = [0] * count, bytearray(count)

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the answer: it was cancelled, or it has failed already."""
        return self.future.done()

    def put(self, index: int, logit: float, truncated_tokens: int | None, layer: int = 0, tokens: int = 0) -> None:
        """Take one score, and how much of its pair was read; one that comes again counts once."""
        self.logits[index], self.truncated_tokens[index], self.layers[index] = logit, truncated_tokens, layer
        self.tokens[index] = tokens
        self.missing -= not self._has[index]
        self._has[index] = True

    def begin(self) -> None:
        """Note that a worker has taken up some of the pairs."""
        self.begun = True

    def report(self, count: int) -> None:
        """Say how many scores were just put, and hand the answer over once all are."""
        if self.on_progress is not None and not self.abandoned:
            try:
                self.on_progress(count)
            except Exception:  # a bar that cannot be drawn is not worth the scores
                logger.warning("Progress cannot be shown any more.", exc_info=True)
                self.on_progress = None
        if self.missing == 0:
            layers = self.layers if self.task.counts else None
            self._settle(ScoredPairs(self.logits, self.truncated_tokens, layers, self.tokens))

    def fail(self, error: BaseException) -> None:
        """Hand an error over, unless there is an answer already or the caller has left."""
        self._settle(error)

    def _settle(self, outcome: ScoredPairs | BaseException) -> None:
        """Set the future's outcome, unless it has one: other threads may settle or cancel it at this very moment."""
        with suppress(InvalidStateError):
            if isinstance(outcome, BaseException):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)


class OpenRequests:
    """The requests of an executor that are not answered yet."""

    def __init__(self) -> None:
        self._requests: dict[Future[ScoredPairs], Request] = {}

    def add(self, request: Request) -> None:
        """Take in a request until its future is settled or cancelled."""
        self._requests[request.future] = request
        request.future.add_done_callback(self._forget)

    @property
    def waiting(self) -> int:
        """How many of them no worker has taken up."""
        return sum(not request.begun for request in tuple(self._requests.values()))

    def _forget(self, future: Future[ScoredPairs]) -> None:
        self._requests.pop(future, None)


def closed_error() -> WorkerError:
    """Return what a caller gets whose request was still open when its Reranker was closed."""
    return WorkerError("This Reranker was closed before the request was done.")


def forked_error(process: int) -> WorkerError:
    """Return what a forked child gets that uses its parent's Reranker."""
    return WorkerError(
        f"This Reranker was started in process {process}, and its threads did not survive the fork. "
        f"Make one after forking; copy.deepcopy() of this one starts afresh."
    )


def unless_forked(stop: Callable[[], None]) -> Callable[[], None]:
    """Return `stop` for this process alone: a forked child has no part in its parent's workers.

    There it would also wait for locks whose holders did not survive the fork.
    """
    process = os.getpid()

    def stop_here() -> None:
        if os.getpid() == process:
            stop()

    return stop_here
