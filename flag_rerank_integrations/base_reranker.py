"""What all rerankers share: check what is given, hand it to an executor, put the answer in order."""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from flag_rerank_integrations.errors import ConfigError, WorkerError
from flag_rerank_integrations.inputs import checked_pairs, checked_requests
from flag_rerank_integrations.pairs import SCORE, Pair, ScoredPairs, Task
from flag_rerank_integrations.progress import ProgressBar
from flag_rerank_integrations.ranking import rankings_of
from flag_rerank_integrations.results import RankedPassage, RerankStats
from flag_rerank_integrations.waiting import wait_async, wait_for

if TYPE_CHECKING:
    from typing_extensions import Self

    from flag_rerank_integrations.executors import Executor

__all__ = ["BaseReranker", "CallOptions"]


class CallOptions(Protocol):
    """The options that every call looks at, whoever computes."""

    @property
    def progress(self) -> bool:
        """Whether to show a progress bar over the pairs of a call."""
        ...

    @property
    def timeout(self) -> float | None:
        """Seconds one call may take; None is no limit."""
        ...


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
        self._closed = False
        self._start_seconds = 0.0
        self._lock = threading.Lock()

    @classmethod
    def from_config(cls, config: Options, *, start: bool = True) -> Self:
        """Make a reranker from its options.

        Args:
            config: All options.
            start: Whether to start now (load the model, or ask the server), or when it is first used.

        Raises:
            RerankError: As the constructor.
        """
        if not isinstance(config, cls._options_type):
            msg = f"from_config needs a {cls._options_type.__name__}, not {type(config).__name__}."
            raise ConfigError(msg)
        self = cls.__new__(cls)
        self._init(config)
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
        checked = checked_pairs(pairs)
        return self._scores(self._wait(checked))

    async def ascore(self, pairs: Iterable[Pair]) -> list[float]:
        """Score pairs without blocking the event loop; see `score`."""
        checked = checked_pairs(pairs)
        return self._scores(await self._await(checked))

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
        counts, pairs = checked_requests(requests, top_n, score_threshold)
        if top_n == 0:
            return [[] for _ in counts]
        scored = self._wait(pairs, self._ranking_task(counts))
        return rankings_of(self._scores(scored), scored, counts, top_n, score_threshold)

    async def arank_many(
        self,
        requests: Iterable[tuple[str, Iterable[str]]],
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> list[list[RankedPassage]]:
        """Rank the passages of several queries without blocking the event loop; see `rank_many`."""
        counts, pairs = checked_requests(requests, top_n, score_threshold)
        if top_n == 0:
            return [[] for _ in counts]
        scored = await self._await(pairs, self._ranking_task(counts))
        return rankings_of(self._scores(scored), scored, counts, top_n, score_threshold)

    def stats(self) -> RerankStats:
        """Return figures about all work done so far; zeros before the start."""
        executor = self._executor
        if executor is None:
            return RerankStats()
        stats = executor.stats()
        return replace(stats, load_seconds={**stats.load_seconds, "total": self._start_seconds})

    def close(self) -> None:
        """Free what the start took; calls still running end with `WorkerError`. Safe twice."""
        with self._lock:
            executor, self._executor, self._closed = self._executor, None, True
        if executor is not None:
            executor.close()

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

    def _wait(self, pairs: Sequence[Pair], task: Task = SCORE) -> ScoredPairs:
        if not pairs:
            return ScoredPairs([], [])
        return wait_for(self._submit(pairs, task), self._config.timeout, len(pairs))

    async def _await(self, pairs: Sequence[Pair], task: Task = SCORE) -> ScoredPairs:
        if not pairs:
            return ScoredPairs([], [])
        if self._executor is None:
            await asyncio.to_thread(self.start)
        return await wait_async(self._submit(pairs, task), self._config.timeout, len(pairs))
