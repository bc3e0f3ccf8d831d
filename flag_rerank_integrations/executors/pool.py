"""Several workers, here or in a cluster, and shards of requests for whoever of them is free.

One dispatcher thread a worker starts it, hands it shards, and starts it anew when it is
lost. A shard whose worker was lost goes to the next free one, twice at most. What a worker
is, a process or a Ray actor, this module does not know.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Final

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.errors import RerankError, WorkerDied, WorkerError, WorkerTimeout
from flag_rerank_integrations.executors.base import OnProgress
from flag_rerank_integrations.executors.memory import as_of_now
from flag_rerank_integrations.executors.request import OpenRequests, Request, closed_error, forked_error, unless_forked
from flag_rerank_integrations.executors.shards import Shard, ShardQueue, cut, parts_of
from flag_rerank_integrations.executors.worker import Worker
from flag_rerank_integrations.pairs import SCORE, Pair, ScoredPairs, Task
from flag_rerank_integrations.results import DeviceStats, RerankStats, add, lives
from flag_rerank_integrations.windows import Windows

__all__ = ["PoolExecutor"]

logger: Final = logging.getLogger(__name__)

_MOST_FAILURES: Final = 2
_CHARACTERS_PER_TOKEN: Final = 6
_JOIN_SECONDS: Final = 0.2
_LONGEST_PAUSE: Final = 30.0

MakeWorkers = Callable[[Callable[[], None]], Sequence[Worker]]
"""Makes a pool's workers, not started yet; given what they call when they have ended."""


class _Dispatcher(threading.Thread):
    """Owns one worker for as long as the executor lives."""

    def __init__(self, worker: Worker, pool: _Pool) -> None:
        super().__init__(name=f"flag-rerank dispatcher {worker.name}", daemon=True)
        self.worker = worker
        self.started: Future[None] = Future()
        self.up = False
        self.busy = False
        self.restarts = 0
        self._finished_work = RerankStats()
        self._tally = threading.Lock()
        self._pool = pool
        self._number = 0
        self._failed_starts = 0
        self._idle_restarts = 0

    def run(self) -> None:
        """Be the thread."""
        try:
            self.worker.start()
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the model
            self.worker.kill()
            self.started.set_exception(error)
            return
        self.up = True
        self.started.set_result(None)
        try:
            while (shards := self._pool.queue.take(self._is_to_restart)) is not None:
                self.busy = bool(shards)
                self._serve(shards)
                self.busy = False
        finally:
            self.worker.kill()

    def work(self) -> RerankStats:
        """Return the work of the worker in all its lives."""
        with self._tally:  # a life that ends is counted once at any moment
            return lives(self._finished_work, self.worker.stats)

    def device_stats(self) -> DeviceStats:
        """Return its device's figures; the worker itself knows the device by another number."""
        name, told = str(self.worker.device), self.worker.stats.devices
        up = self.up and self.worker.running
        return replace(as_of_now(told[0]), name=name, up=up) if told else DeviceStats(name, up=up)

    def _is_to_restart(self) -> bool:
        """Tell whether the idle worker has ended; one that ends again and again waits for work."""
        worker = self.worker
        return not worker.running and worker.restartable and self._idle_restarts < _MOST_FAILURES

    def _serve(self, shards: list[Shard]) -> None:
        """Have shards scored, in one message; without any, see to the worker alone."""
        if shards and not self.worker.running and self._pool.has_others(self):
            # A start takes long, in a cluster above all: the workers that are up need not wait for it.
            self._pool.queue.put_back(shards)
            shards = []
        try:
            self._idle_restarts += not shards
            self._revive()
            if not shards:
                return
            answer = self._ask(shards)
            self._idle_restarts = 0
            scored = ScoredPairs(answer["logits"], answer["truncated_tokens"], answer["layers"], answer["tokens"])
            self._pool.deliver(shards, scored)
        except (WorkerDied, WorkerTimeout) as error:
            self._recover(shards, error)
        except RerankError as error:
            self._blame(shards, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, no caller may wait for ever
            msg = f"The answer of the worker for {self.worker.name} cannot be used: {type(error).__name__}: {error}"
            self._recover(shards, WorkerDied(msg))

    def _ask(self, shards: list[Shard]) -> dict[str, Any]:
        self._number += 1
        message = {
            "id": self._number,
            "pairs": [pair for shard in shards for pair in shard.pairs],
            "layers": shards[0].request.task.layers,
            "counts": [count for shard in shards for count in shard.counts],
        }
        return self.worker.ask(message, self._pool.timeout)

    def _revive(self) -> None:
        """Start the worker anew if it has ended.

        Raises:
            WorkerDied: It does not start.
        """
        if self.worker.running:
            return
        if self._pool.closing.is_set():
            raise WorkerDied(str(closed_error()))
        logger.warning("The worker for %s has ended. It is started anew.", self.worker.name)
        self._end_worker()
        try:
            self.worker.start()
        except RerankError as error:
            self._failed_starts += 1
            msg = f"The worker for {self.worker.name} does not start any more: {error}"
            raise WorkerDied(msg) from error
        self.up = True
        self._failed_starts = 0
        self.restarts += 1

    def _blame(self, shards: list[Shard], error: RerankError) -> None:
        """Fail the request that an error belongs to: of several, each is tried again by itself."""
        if len(shards) == 1:
            shards[0].request.fail(error)
            return
        for shard in shards:
            if not shard.request.abandoned:
                self._serve([shard])

    def _recover(self, shards: list[Shard], error: WorkerError) -> None:
        """End what is left of the worker, and have its shards tried again, twice at most."""
        self._end_worker()
        if self._pool.closing.is_set():
            error = closed_error()
        else:
            logger.warning("%s", error)
        for shard in shards:
            shard.failures += 1
            if shard.failures > _MOST_FAILURES or self._pool.closing.is_set():
                shard.request.fail(error)
        self._pool.queue.put_back([shard for shard in shards if not shard.request.abandoned])
        if self._failed_starts and self._pool.has_others(self):
            # Those that can start take the work meanwhile.
            self._pool.closing.wait(min(_LONGEST_PAUSE, 2.0**self._failed_starts))

    def _end_worker(self) -> None:
        self.up = False
        self.worker.kill()
        with self._tally:
            self._finished_work = lives(self._finished_work, self.worker.stats)
            self.worker.stats = RerankStats()


class _Pool:
    """What dispatchers share. It knows nothing of the executor, so that a forgotten one can be collected."""

    def __init__(self, workers: MakeWorkers, timeout: float | None) -> None:
        self.queue = ShardQueue()
        self.timeout = timeout
        self.closing = threading.Event()
        self._delivering = threading.Lock()
        self.dispatchers = [_Dispatcher(worker, self) for worker in workers(self.queue.wake)]

    def start(self) -> None:
        """Load all models at once, and wait for the last.

        Raises:
            RerankError: One of them could not be loaded.
        """
        for dispatcher in self.dispatchers:
            dispatcher.start()
        for dispatcher in self.dispatchers:
            dispatcher.started.result()

    def deliver(self, shards: Sequence[Shard], answer: ScoredPairs) -> None:
        """Give each shard its part of an answer; one at a time, for requests are in many shards."""
        with self._delivering:
            for shard, part in zip(shards, parts_of(answer, [len(shard.pairs) for shard in shards]), strict=True):
                shard.deliver(part)

    def has_others(self, dispatcher: _Dispatcher) -> bool:
        """Tell whether any other worker is up."""
        return any(other.up and other.worker.running for other in self.dispatchers if other is not dispatcher)

    def close(self) -> None:
        """Kill every worker, busy or not, and wait for the threads."""
        self.closing.set()
        self.queue.close(closed_error())
        others = [d for d in self.dispatchers if d is not threading.current_thread()]
        while any(d.is_alive() for d in others):  # one may just have started its worker
            for dispatcher in others:
                dispatcher.worker.interrupt()
                dispatcher.join(_JOIN_SECONDS)


class PoolExecutor:
    """Scores with several workers, each with a model of its own.

    Args:
        config: Names the model.
        workers: Makes the workers; they are started here, all at once.

    Raises:
        RerankError: The model cannot be loaded by one of the workers; see the subclass.
    """

    def __init__(self, config: RerankConfig, workers: MakeWorkers) -> None:
        self._process = os.getpid()
        self._open = OpenRequests()
        self._most_characters = Windows.of(config).reach(config.max_length) * _CHARACTERS_PER_TOKEN
        self._pool = _Pool(workers, config.timeout)
        self._stop = weakref.finalize(self, unless_forked(self._pool.close))
        try:
            self._pool.start()
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
        if pairs:
            self._pool.queue.put(cut(request, len(self._pool.dispatchers), self._most_characters))
            self._open.add(request)
        else:
            request.report(0)
        return request.future

    def stats(self) -> RerankStats:
        """Return a snapshot of the work of all workers, those that were lost included."""
        total = RerankStats()
        for dispatcher in self._pool.dispatchers:
            total = add(total, dispatcher.work())
        return replace(
            total,
            worker_restarts=sum(dispatcher.restarts for dispatcher in self._pool.dispatchers),
            waiting_calls=self._open.waiting,
            devices=tuple(dispatcher.device_stats() for dispatcher in self._pool.dispatchers),
        )

    def close(self) -> None:
        """Kill the workers, fail what is still queued with `WorkerError`; safe twice."""
        self._stop()
