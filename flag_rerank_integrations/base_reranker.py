"""What all rerankers share: check what is given, hand it to an executor, put the answer in order."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from flag_rerank_integrations.call_options import CallOptions
from flag_rerank_integrations.errors import WorkerError
from flag_rerank_integrations.inputs import checked_config, checked_cut, checked_pairs, checked_requests
from flag_rerank_integrations.monitoring.calls import Call, Calls
from flag_rerank_integrations.pairs import SCORE, Pair, ScoredPairs, Task
from flag_rerank_integrations.progress import ProgressBar
from flag_rerank_integrations.ranking import rankings_of
from flag_rerank_integrations.results import RankedPassage, RerankStats
from flag_rerank_integrations.waiting import wait_async, wait_for

if TYPE_CHECKING:
    from typing_extensions import Self

    from flag_rerank_integrations.executors import Executor

__all__ = ["BaseReranker"]


Options = TypeVar("Options", bound=CallOptions)


class BaseReranker(ABC, Generic[Options]):
    """Scores and ranks passages against queries through an executor, which a subclass starts.

    One instance may be used from many threads and event loops at once. Pickling and copying
    carry the options only; the copy starts when it is first used.
    """

    _options_type: ClassVar[type[Any]]
    _started_word: ClassVar[str] = "loaded"

    def _init(self, config: Options) -> None:
        self._config = config
        self._executor: Executor | None = None
        self._closing: Executor | None = None
        self._closed = False
        self._calls = Calls(config.model)
        self._device_names = ""
        self._last_figures = RerankStats()
        self._start_seconds = 0.0
        self._lock = threading.Lock()

    @classmethod
    def from_config(cls, config: Options | Mapping[str, Any] | str | os.PathLike[str], *, start: bool = True) -> Self:
        """Make a reranker from its options.

        Args:
            config: All options, as an object of the config's class; or those that differ from the defaults, as a
                dict, as JSON text, or as the path of a JSON file such as `flag-rerank bench` writes.
            start: Whether to start now (load the model, or ask the server), or when it is first used.

        Raises:
            RerankError: As the constructor; `ConfigError` also where a file cannot be read.
        """
        self = cls.__new__(cls)
        self._init(checked_config(config, cls._options_type))
        if start:
            self.start()
        return self

    @property
    def config(self) -> Options:
        """The options this reranker was made with."""
        return self._config

    def start(self) -> None:
        """Load the model, or ask the server, unless that is done; other threads that need it wait.

        Raises:
            RerankError: As the constructor; or `WorkerError` after `close`.
        """
        self._started()

    def score(self, pairs: Iterable[Pair]) -> list[float]:
        """Score pairs of query and passage.

        Args:
            pairs: (query, passage) pairs.

        Returns:
            One float a pair, in order. It is the logit, or its sigmoid (0 to 1) with `normalize=True`.

        Raises:
            InputError: Something is not a pair of strings, or a text is too long and
                `long_passages="error"`.
            WorkerError: Scoring failed; `WorkerTimeout` where it took over `timeout` seconds.
        """
        with self._call("score") as call:
            return self._scores(self._wait(call, checked_pairs(pairs)))

    async def ascore(self, pairs: Iterable[Pair]) -> list[float]:
        """Score pairs without blocking the event loop; see `score`."""
        with self._call("score") as call:
            return self._scores(await self._await(call, checked_pairs(pairs)))

    def rank(
        self,
        query: str,
        passages: Iterable[str],
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> list[RankedPassage]:
        """Rank the passages of one query, best first; equal scores keep their order.

        Args:
            query: The query.
            passages: The passages.
            top_n: How many to return at most; None is all.
            score_threshold: Passages with a lower score are left out, before `top_n` applies; in the
                scores' own unit: logits, or 0 to 1 with `normalize=True`.

        Returns:
            The passages by their positions in the list given, from 0; at most `top_n` of them.

        Raises:
            InputError: A text is not a string, or too long with `long_passages="error"`.
            ConfigError: `top_n` or `score_threshold` is wrong.
            WorkerError: As in `score`.
        """
        return self.rank_many([(query, passages)], top_n, score_threshold)[0]

    async def arank(
        self,
        query: str,
        passages: Iterable[str],
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> list[RankedPassage]:
        """Rank the passages of one query without blocking the event loop; see `rank`."""
        return (await self.arank_many([(query, passages)], top_n, score_threshold))[0]

    def rank_many(
        self,
        requests: Iterable[tuple[str, Iterable[str]]],
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> list[list[RankedPassage]]:
        """Rank the passages of several queries in one go, with shared batches.

        Args:
            requests: (query, passages) of each ranking.
            top_n: How many to return of each at most; None is all.
            score_threshold: Passages with a lower score are left out, before `top_n` applies.

        Returns:
            One ranking for each request, in order; see `rank`.

        Raises:
            RerankError: As in `rank`.
        """
        with self._call("rank", top_n) as call:
            top_n, score_threshold = checked_cut(top_n, score_threshold)
            counts, pairs = checked_requests(requests)
            if top_n == 0:
                return [[] for _ in counts]
            scored = self._wait(call, pairs, self._ranking_task(counts))
            return rankings_of(self._scores(scored), scored, counts, top_n, score_threshold)

    async def arank_many(
        self,
        requests: Iterable[tuple[str, Iterable[str]]],
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> list[list[RankedPassage]]:
        """Rank the passages of several queries without blocking the event loop; see `rank_many`."""
        with self._call("rank", top_n) as call:
            top_n, score_threshold = checked_cut(top_n, score_threshold)
            counts, pairs = checked_requests(requests)
            if top_n == 0:
                return [[] for _ in counts]
            scored = await self._await(call, pairs, self._ranking_task(counts))
            return rankings_of(self._scores(scored), scored, counts, top_n, score_threshold)

    def stats(self) -> RerankStats:
        """Return figures about all work done so far: zeros before the start, and what was counted after `close`."""
        executor = self._executor or self._closing
        return self._calls.added_to(self._last_figures if executor is None else self._figures(executor))

    def close(self) -> None:
        """Free what the start took; calls still running end with `WorkerError`. Safe twice."""
        with self._lock:
            executor, self._closed = self._executor, True
            if executor is not None:
                self._closing = executor  # `stats` asks it until its last figures are in
                self._executor = None
        if executor is not None:
            executor.close()
            self._last_figures = replace(self._figures(executor), devices=(), waiting_calls=0)
            self._closing = None

    def __enter__(self) -> Self:
        """Start, unless that is done."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    async def __aenter__(self) -> Self:
        """Start off the event loop, unless that is done."""
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close off the event loop."""
        await asyncio.to_thread(self.close)

    def __getstate__(self) -> Options:
        """Carry the options only: threads, weights, devices and connections stay where they are."""
        return self._config

    def __setstate__(self, config: Options) -> None:
        """Come back with the same options; it starts at first use."""
        self._init(config)

    def __repr__(self) -> str:
        """Name the model, where it runs, and the state."""
        word = self._started_word
        state = "closed" if self._closed else word if self._executor is not None else f"not {word}"
        return f"<{type(self).__name__} {self._place()}, {state}>"

    @abstractmethod
    def _launch(self) -> Executor:
        """Start what computes."""

    @abstractmethod
    def _scores(self, scored: ScoredPairs) -> list[float]:
        """Bring an executor's answer into the form that was asked for."""

    @abstractmethod
    def _place(self) -> str:
        """Name the model and where it runs."""

    def _started(self) -> Executor:
        executor = self._executor
        if executor is not None:
            return executor
        with self._lock:
            if self._closed:
                msg = f"This {type(self).__name__} is closed."
                raise WorkerError(msg)
            if self._executor is None:
                begin = time.perf_counter()
                self._executor = self._launch()
                self._start_seconds = time.perf_counter() - begin
            return self._executor

    def _figures(self, executor: Executor) -> RerankStats:
        stats = executor.stats()
        load_seconds = {**stats.load_seconds, "total": self._start_seconds}
        return replace(stats, load_seconds=load_seconds, model=self._config.model or "")

    def _call(self, method: str, top_n: int | None = None) -> Call:
        return Call(self._calls, method, top_n, self._devices)

    def _devices(self) -> str:
        """Name the devices for whoever traces calls."""
        executor = self._executor
        if executor is not None and not self._device_names:
            self._device_names = ", ".join(device.name for device in executor.stats().devices)
        return self._device_names

    def _ranking_task(self, _counts: Sequence[int]) -> Task:
        """Return what to ask for rankings of so many passages each."""
        return SCORE

    def _submit(self, pairs: Sequence[Pair], task: Task) -> Future[ScoredPairs]:
        executor = self._started()
        if not self._config.progress:
            return executor.submit(pairs, task=task)
        bar = ProgressBar(task.places(len(pairs)))
        try:
            future = executor.submit(pairs, bar.update, task)
        except WorkerError:
            bar.close()
            raise
        future.add_done_callback(bar.close)
        return future

    def _wait(self, call: Call, pairs: Sequence[Pair], task: Task = SCORE) -> ScoredPairs:
        call.ask(pairs)
        if not pairs:
            return ScoredPairs([], [])
        return call.answer(wait_for(self._submit(pairs, task), self._config.timeout, len(pairs)))

    async def _await(self, call: Call, pairs: Sequence[Pair], task: Task = SCORE) -> ScoredPairs:
        call.ask(pairs)
        if not pairs:
            return ScoredPairs([], [])
        if self._executor is None:
            await asyncio.to_thread(self.start)
        return call.answer(await wait_async(self._submit(pairs, task), self._config.timeout, len(pairs)))
