"""The Reranker: checks what it is given, hands it to an executor, puts the answer in order."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flag_rerank_integrations.config import DEFAULT_MODEL, RerankConfig
from flag_rerank_integrations.errors import ConfigError, WorkerError
from flag_rerank_integrations.inputs import checked_layers, checked_pairs, checked_requests
from flag_rerank_integrations.pairs import SCORE, Pair, ScoredPairs, Task
from flag_rerank_integrations.progress import ProgressBar
from flag_rerank_integrations.ranking import rankings_of, scores_by_layer, scores_of
from flag_rerank_integrations.results import RankedPassage, RerankStats
from flag_rerank_integrations.waiting import wait_async, wait_for

if TYPE_CHECKING:
    from typing_extensions import Self

    from flag_rerank_integrations.executors import Executor

__all__ = ["Reranker"]


class Reranker:
    """Scores and ranks passages against queries with a cross-encoder.

    One instance may be used from many threads and event loops at once: calls share batches,
    and each gets its own scores. Pickling and copying carry the options only; the copy loads
    its model when it is first used.

    Args:
        model: A local directory, a hub id, or "quickstart".
        **options: See `RerankConfig`.

    Raises:
        ConfigError: An option is wrong.
        DeviceError: The device does not exist; nothing was loaded.
        ModelLoadError: The checkpoint is missing, broken, or not a reranker.
    """

    def __init__(self, model: str = DEFAULT_MODEL, **options: Any) -> None:  # noqa: ANN401 - RerankConfig checks them
        self._init(RerankConfig.from_dict({"model": model, **options}))
        self.start()

    def _init(self, config: RerankConfig) -> None:
        self._config = config
        self._executor: Executor | None = None
        self._closed = False
        self._start_seconds = 0.0
        self._lock = threading.Lock()

    @classmethod
    def from_config(cls, config: RerankConfig, *, start: bool = True) -> Self:
        """Make a Reranker from a config.

        Args:
            config: All options.
            start: Whether to load the model now, or when it is first used.

        Raises:
            RerankError: As the constructor.
        """
        if not isinstance(config, RerankConfig):
            msg = f"from_config needs a RerankConfig, not {type(config).__name__}."
            raise ConfigError(msg)
        self = cls.__new__(cls)
        self._init(config)
        if start:
            self.start()
        return self

    @property
    def config(self) -> RerankConfig:
        """The options this Reranker was made with."""
        return self._config

    def start(self) -> None:
        """Load the model unless it is loaded; other threads that need it wait.

        Raises:
            RerankError: As the constructor; or `WorkerError` after `close`.
        """
        self._started()

    def score(self, pairs: Iterable[Pair]) -> list[float]:
        """Score pairs of query and passage.

        Args:
            pairs: (query, passage) pairs.

        Returns:
            One score a pair, in order: the logit, or its sigmoid with `normalize=True`.

        Raises:
            InputError: Something is not a pair of strings, or a text is too long and
                `long_passages="error"`.
            WorkerError: Scoring failed; `WorkerTimeout` where it took over `timeout` seconds.
        """
        checked = checked_pairs(pairs)
        return scores_of(self._wait(checked), self._config)

    async def ascore(self, pairs: Iterable[Pair]) -> list[float]:
        """Score pairs without blocking the event loop; see `score`."""
        checked = checked_pairs(pairs)
        return scores_of(await self._await(checked), self._config)

    def score_layers(self, pairs: Iterable[Pair], layers: Iterable[int]) -> dict[int, list[float]]:
        """Score pairs at several layers of a layerwise or lightweight model, in one pass.

        Args:
            pairs: (query, passage) pairs.
            layers: The layers to read, in any order; one that occurs twice is read once.

        Returns:
            For each layer, in the order asked for, one score a pair.

        Raises:
            ConfigError: The model has no such layer; the message names those it has.
            RerankError: As in `score`.
        """
        checked, task = checked_pairs(pairs), Task(layers=checked_layers(layers))
        return scores_by_layer(self._wait(checked, task), self._config, task.layers)

    async def ascore_layers(self, pairs: Iterable[Pair], layers: Iterable[int]) -> dict[int, list[float]]:
        """Score pairs at several layers without blocking the event loop; see `score_layers`."""
        checked, task = checked_pairs(pairs), Task(layers=checked_layers(layers))
        return scores_by_layer(await self._await(checked, task), self._config, task.layers)

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
            score_threshold: Passages with a lower score are left out, before `top_n` applies.

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
        """
        counts, pairs = checked_requests(requests, top_n, score_threshold)
        if top_n == 0:
            return [[] for _ in counts]
        scored = self._wait(pairs, self._pruned(counts))
        return rankings_of(scored, self._config, counts, top_n, score_threshold)

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
        scored = await self._await(pairs, self._pruned(counts))
        return rankings_of(scored, self._config, counts, top_n, score_threshold)

    def stats(self) -> RerankStats:
        """Return figures about all work done so far; zeros before the model is loaded."""
        executor = self._executor
        if executor is None:
            return RerankStats()
        stats = executor.stats()
        return replace(stats, load_seconds={**stats.load_seconds, "total": self._start_seconds})

    def close(self) -> None:
        """Free the model and the device; calls still running end with `WorkerError`. Safe twice."""
        with self._lock:
            executor, self._executor, self._closed = self._executor, None, True
        if executor is not None:
            executor.close()

    def __enter__(self) -> Self:
        """Load the model unless it is loaded."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    async def __aenter__(self) -> Self:
        """Load the model off the event loop unless it is loaded."""
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close off the event loop."""
        await asyncio.to_thread(self.close)

    def __getstate__(self) -> RerankConfig:
        """Carry the options only: threads, weights and devices stay where they are."""
        return self._config

    def __setstate__(self, config: RerankConfig) -> None:
        """Come back with the same options; the model is loaded at first use."""
        self._init(config)

    def __repr__(self) -> str:
        """Name the model, the device and the state."""
        state = "closed" if self._closed else "loaded" if self._executor is not None else "not loaded"
        return f"<{type(self).__name__} {self._config.model!r} on {self._config.device!r}, {state}>"

    def _started(self) -> Executor:
        executor = self._executor
        if executor is not None:
            return executor
        with self._lock:
            if self._closed:
                msg = "This Reranker is closed."
                raise WorkerError(msg)
            if self._executor is None:
                begin = time.perf_counter()
                from flag_rerank_integrations import executors

                self._executor = executors.start(self._config)
                self._start_seconds = time.perf_counter() - begin
            return self._executor

    def _pruned(self, counts: Sequence[int]) -> Task:
        """Return what to ask for rankings of so many passages: without steps, just their scores."""
        return Task(counts=tuple(filter(None, counts))) if self._config.progressive else SCORE

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
