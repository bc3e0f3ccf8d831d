"""Threads that compute one batch together on a CPU, each on whole pairs of its own.

Threads that share every product wait for each other at the end of each: a dozen times a layer,
for the slowest of them. Pairs do not depend on each other, so threads that take a share of the
pairs meet once a batch (docs/decisions/lanes.md has what that was measured to be worth).
"""

from __future__ import annotations

import ctypes
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import torch

__all__ = ["Lanes", "adapts_to_length", "divided"]

_T = TypeVar("_T")
_Task = tuple["Future[Any]", Callable[[], Any]]

# More lanes mostly wait for the interpreter's lock, so above that each has several threads.
_MOST_LANES: Final = 4
# A batch that cannot be divided better than this is faster by products that all threads share.
_WORST_BALANCE: Final = 1.15


class Lanes:
    """As many threads as compute best together; they begin when they are first needed.

    Together they compute with as many of torch's own threads as whoever needed them first: a lane has one,
    or, where there are many, several.
    """

    def __init__(self) -> None:
        self._threads: _Threads | None = None
        self._begun = False

    def shares(self, efforts: Sequence[float], cost: Callable[[Sequence[int]], float]) -> list[list[int]]:
        """Divide pairs among the lanes; one share says that they are better computed without. See `divided`."""
        if len(efforts) > 1 and not self._begun:
            self._threads, self._begun = _begin(), True
        return divided(efforts, 1 if self._threads is None else self._threads.count, cost)

    def run(self, tasks: Sequence[Callable[[], _T]]) -> list[_T]:
        """Run a task for each share side by side; return their results, or raise the first one's error."""
        if self._threads is None:
            return [task() for task in tasks]
        return self._threads.run(tasks)

    def close(self) -> None:
        """End the threads; safe to call twice. What is run later is run without them."""
        threads, self._threads, self._begun = self._threads, None, True
        if threads is not None:
            threads.close()


def divided(efforts: Sequence[float], count: int, cost: Callable[[Sequence[int]], float]) -> list[list[int]]:
    """Divide pairs into shares that take about equally long, longest first to whoever has least.

    Args:
        efforts: How long each pair takes by itself, in any unit.
        count: How many shares.
        cost: How long a share takes, given as indices: less than its pairs by themselves where they share
            their beginning, which each lane would compute for itself.

    Returns:
        Indices into `efforts`, each share in order; or one share with all where they cannot be divided well.
    """
    whole = list(range(len(efforts)))
    shares: list[list[int]] = [[] for _ in range(count)]
    sums = [0.0] * count
    for index in sorted(whole, key=lambda i: -efforts[i]):
        least = sums.index(min(sums))
        shares[least].append(index)
        sums[least] += efforts[index]
    if count == 1 or not all(shares) or max(map(cost, shares)) * count > _WORST_BALANCE * cost(whole):
        return [whole]
    return [sorted(share) for share in shares]


def adapts_to_length(config: Any) -> bool:  # noqa: ANN401 - transformers' configs share no typed base
    """Tell whether a forward pass rewrites the model's rotary positions, so that threads cannot share it."""
    parameters = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [value for value in parameters.values() if isinstance(value, dict)]
    return any(kind.get("rope_type") in {"dynamic", "longrope"} for kind in (parameters, *by_layer_type))


class _Threads:
    """Threads, each of which computes with so many of torch's own."""

    def __init__(self, count: int, each: int) -> None:
        self.count = count
        self._queues: list[SimpleQueue[_Task | None]] = [SimpleQueue() for _ in range(count)]
        threads = [
            threading.Thread(target=_serve, args=(queue, each), name=f"flag-rerank lane {number}", daemon=True)
            for number, queue in enumerate(self._queues)
        ]
        started: list[threading.Thread] = []
        self._stop = weakref.finalize(self, _end, self._queues, started)
        # Whoever computes with them ends them. Ended before that, at the interpreter's exit, they would leave it
        # waiting for an answer for ever.
        self._stop.atexit = False
        try:
            for thread in threads:
                thread.start()
                started.append(thread)
        except RuntimeError:
            self.close()
            raise

    def run(self, tasks: Sequence[Callable[[], _T]]) -> list[_T]:
        futures: list[Future[_T]] = [Future() for _ in tasks]
        for queue, future, task in zip(self._queues, futures, tasks, strict=False):
            queue.put((future, task))
        wait(futures)  # also after an error: nobody may free what others compute with
        error = next(filter(None, (future.exception() for future in futures)), None)
        if error is None:
            return [future.result() for future in futures]
        try:
            raise error
        finally:
            # This frame is part of the error's trace: together they would be a circle, and keep the whole batch
            # in memory, of which there may be too little.
            del error, futures, future

    def close(self) -> None:
        self._stop()


def _begin() -> _Threads | None:
    """Start lanes that together compute with as many threads as this one does; None where that cannot be."""
    threads = torch.get_num_threads()
    count = next((count for count in range(_MOST_LANES, 1, -1) if threads % count == 0), 1)
    if count == 1 or _library() is None:
        return None
    try:
        lanes = _Threads(count, threads // count)
    except RuntimeError:  # no more can be started: the system's limit is reached, or the interpreter is ending
        return None
    if lanes.run([torch.get_num_threads] * count) == [threads // count] * count:
        return lanes
    lanes.close()  # this build of torch does not take its number of threads from OpenMP
    return None


@cache
def _library() -> ctypes.CDLL | None:
    """Return torch's library, through which its OpenMP runtime can be reached.

    `torch.set_num_threads` will not do: it also sets the number for every thread that begins to compute later.
    """
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        library.omp_set_num_threads  # noqa: B018 - whether it is there
    except (OSError, AttributeError):
        return None
    return library


def _limit(threads: int) -> None:
    """Let this thread compute with so many threads, and no other thread be changed."""
    library = _library()
    torch.get_num_threads()  # sets a new thread's number, which must not happen later
    if library is not None:
        library.omp_set_num_threads(ctypes.c_int(threads))
        set_for_mkl = getattr(library, "MKL_Set_Num_Threads_Local", None)
        if set_for_mkl is not None:
            set_for_mkl(ctypes.c_int(threads))


def _serve(queue: SimpleQueue[_Task | None], threads: int) -> None:
    """Be a lane: run one task after the other."""
    _limit(threads)
    while True:
        task = queue.get()
        if task is None:
            return
        _do(*task)
        del task  # or it would keep its batch until the next one comes


def _do(future: Future[Any], run: Callable[[], Any]) -> None:
    try:
        result = run()
    except BaseException as error:  # noqa: BLE001 - belongs to whoever asked
        future.set_exception(error)
        del future  # this frame is part of the error's trace: no circle, see `_Threads.run`
    else:
        future.set_result(result)


def _end(queues: Sequence[SimpleQueue[_Task | None]], lanes: Sequence[threading.Thread]) -> None:
    for queue in queues:
        queue.put(None)
    for lane in lanes:
        if lane is not threading.current_thread():
            lane.join()
