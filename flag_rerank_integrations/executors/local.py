"""One device, this process: a worker thread owns the model and serves a queue of requests.

Requests that wait together are scored together, in shared batches. Groups take turns batch
by batch, so a short request never waits for a long one that came before it to end.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Final

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import RerankError, WorkerError
from flag_rerank_integrations.executors.base import OnProgress
from flag_rerank_integrations.executors.memory import device_stats
from flag_rerank_integrations.executors.request import OpenRequests, Request, closed_error, forked_error, unless_forked
from flag_rerank_integrations.pairs import SCORE, Pair, ScoredBatch, ScoredPairs, Task
from flag_rerank_integrations.results import RerankStats
from flag_rerank_integrations.scorer import Scorer

__all__ = ["LocalExecutor"]

logger: Final = logging.getLogger(__name__)

_STOP_SECONDS = 10.0


class _Group:
    """Requests of one kind that are scored together."""

    def __init__(self, scorer: Scorer, requests: Sequence[Request]) -> None:
        self.requests = list(requests)
        self._begun = False
        self._places = [(request, i) for request in requests for i in range(len(request.pairs))]
        pairs = [pair for request in requests for pair in request.pairs]
        counts = tuple(count for request in requests for count in request.task.counts)
        task = Task(self.requests[0].task.layers, counts)
        self._steps: Iterator[ScoredBatch] = scorer.steps(pairs, self._is_wanted, task)

    def step(self) -> bool:
        """Score one batch and hand out what it completes; False says that nothing is left."""
        if not self._begun:
            self._begun = True
            for request in self.requests:
                request.begin()
        batch = next(self._steps, None)
        if batch is None:
            return False
        done: Counter[Request] = Counter()
        scores = zip(batch.indices, batch.logits, batch.truncated_tokens, batch.tokens, strict=True)
        for place, logit, cut, tokens in scores:
            row, column = divmod(place, len(self._places))
            request, index = self._places[column]
            request.put(row * len(request.pairs) + index, logit, cut, batch.layer or 0, tokens)
            done[request] += 1
        for request, count in done.items():
            request.report(count)
        return True

    def _is_wanted(self, place: int) -> bool:
        return not self._places[place][0].abandoned


class _Worker(threading.Thread):
    """Loads the model, then serves the queue until it is told to stop.

    It knows nothing of the executor that started it, so that a forgotten executor can be
    collected, which stops the thread.
    """

    def __init__(self, config: RerankConfig, device: Device) -> None:
        super().__init__(name=f"flag-rerank {device}", daemon=True)
        self._config, self._device = config, device
        self._queue: SimpleQueue[Request | None] = SimpleQueue()
        self._groups: deque[_Group] = deque()
        self._stopping = False
        self._gate = threading.Lock()
        self.loaded: Future[Scorer] = Future()

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises:
            WorkerError: The worker was stopped.
        """
        with self._gate:  # no request may slip in behind the one that stops the thread
            if self._stopping:
                msg = "This Reranker is closed."
                raise WorkerError(msg)
            self._queue.put(request)

    def stop(self) -> None:
        """Stop after the batch in hand, fail what is queued, and wait for the thread to end."""
        with self._gate:
            self._stopping = True
            self._queue.put(None)
        if self.is_alive() and threading.current_thread() is not self:
            self.join(_STOP_SECONDS)

    def run(self) -> None:
        """Be the thread."""
        try:
            scorer = Scorer(self._config, self._device)
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the model
            self.loaded.set_exception(error)
            return
        self.loaded.set_result(scorer)
        try:
            self._serve(scorer)
        finally:
            with self._gate:
                self._stopping = True  # however it ended: nobody would answer what comes later
            self._fail_rest()
            scorer.close()

    def _serve(self, scorer: Scorer) -> None:
        """Give every group one batch in turn; take in new requests between batches."""
        while not self._stopping:
            kinds: dict[object, list[Request]] = {}
            for request in self._take():
                kinds.setdefault(request.task.kind, []).append(request)
            for requests in kinds.values():
                self._group(scorer, requests)
            if self._groups:
                self._turn(scorer, self._groups.popleft())

    def _group(self, scorer: Scorer, requests: Sequence[Request]) -> None:
        """Put requests in line together; where even that fails, for want of memory, their callers are told."""
        try:
            self._groups.append(_Group(scorer, requests))
        except BaseException as error:  # noqa: BLE001 - as in `_turn`
            for request in requests:
                request.fail(_wrapped(error, self._device))

    def _take(self) -> list[Request]:
        """Return what is queued; wait for something only where there is nothing else to do."""
        requests: list[Request] = []
        try:
            if not self._groups:
                requests.append(_alive(self._queue.get()))
            while True:
                requests.append(_alive(self._queue.get_nowait()))
        except Empty:
            return [request for request in requests if not request.abandoned]
        except _Stop:
            for request in requests:
                request.fail(closed_error())
            return []

    def _turn(self, scorer: Scorer, group: _Group) -> None:
        """Score one batch of a group, and put the group last in line."""
        try:
            if group.step():
                self._groups.append(group)
        except BaseException as error:  # noqa: BLE001 - belongs to the callers, whatever it is; the worker serves on
            self._blame(scorer, group, error)

    def _blame(self, scorer: Scorer, group: _Group, error: BaseException) -> None:
        """Fail the request that an error belongs to: of several, each is tried again by itself."""
        open_requests = [request for request in group.requests if not request.abandoned]
        if len(group.requests) == 1:
            for request in open_requests:
                request.fail(error if isinstance(error, RerankError) else _wrapped(error, self._device))
            return
        for request in open_requests:
            alone = Request(request.pairs, request.on_progress, request.future, request.task)
            self._groups.append(_Group(scorer, [alone]))

    def _fail_rest(self) -> None:
        for group in self._groups:
            for request in group.requests:
                request.fail(closed_error())
        self._groups.clear()
        while not self._queue.empty():
            waiting = self._queue.get()
            if waiting is not None:
                waiting.fail(closed_error())


class LocalExecutor:
    """Scores on one device from a worker thread of this process.

    Args:
        config: Names the model.
        device: Where to load it.

    Raises:
        RerankError: The model cannot be loaded; see the subclass.
    """

    def __init__(self, config: RerankConfig, device: Device) -> None:
        self._device = device
        self._process = os.getpid()
        self._open = OpenRequests()
        self._worker = _Worker(config, device)
        self._worker.start()
        self._stop = weakref.finalize(self, unless_forked(self._worker.stop))
        try:
            self._scorer = self._worker.loaded.result()
        except BaseException:
            self._stop()
            raise

    def submit(
        self, pairs: Sequence[Pair], on_progress: OnProgress | None = None, task: Task = SCORE
    ) -> Future[ScoredPairs]:
        """Queue pairs, from any thread, and return at once; cancelling the future frees queued work.

        Raises:
            WorkerError: This executor is closed, or was started before this process was forked.
        """
        if os.getpid() != self._process:
            raise forked_error(self._process)
        request = Request(pairs, on_progress, task=task)
        if not pairs:
            request.report(0)
            return request.future
        self._worker.submit(request)
        self._open.add(request)
        return request.future

    def stats(self) -> RerankStats:
        """Return a snapshot of the work done."""
        device = replace(device_stats(self._device), up=self._worker.is_alive())
        return replace(self._scorer.stats, devices=(device,), waiting_calls=self._open.waiting)

    def close(self) -> None:
        """Stop, fail what is still queued with `WorkerError`, free the device; safe twice."""
        self._stop()


class _Stop(Exception):  # noqa: N818 - a signal, not an error
    """The queue's end was reached."""


def _alive(request: Request | None) -> Request:
    if request is None:
        raise _Stop
    return request


def _wrapped(error: BaseException, device: Device) -> WorkerError:
    wrapped = WorkerError(f"Scoring on {device} failed: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
