"""Where a wrapper's scores come from: a shared reranker, or one that it makes when first asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.remote.config import RemoteConfig
from flag_rerank_integrations.results import RankedPassage

if TYPE_CHECKING:
    from flag_rerank_integrations.remote import RemoteReranker
    from flag_rerank_integrations.reranker import Reranker

__all__ = ["Config", "RerankerLike", "RerankerSource", "made_from"]

Config = RerankConfig | RemoteConfig
"""What a wrapper can make a reranker of."""

Request = tuple[str, Sequence[str]]
"""(query, passages)."""


class RerankerLike(Protocol):
    """The methods of a `Reranker` that wrappers call, wherever its model runs.

    A shared object needs those that its wrapper uses; see `check_reranker`.
    """

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Score (query, passage) pairs, in order."""
        ...

    def rank(
        self, query: str, passages: Sequence[str], top_n: int | None = None, score_threshold: float | None = None
    ) -> list[RankedPassage]:
        """Rank the passages of one query, best first."""
        ...

    def rank_many(
        self, requests: Sequence[Request], top_n: int | None = None, score_threshold: float | None = None
    ) -> list[list[RankedPassage]]:
        """Rank the passages of many queries."""
        ...

    async def ascore(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Score pairs without blocking the event loop."""
        ...

    async def arank(
        self, query: str, passages: Sequence[str], top_n: int | None = None, score_threshold: float | None = None
    ) -> list[RankedPassage]:
        """Rank without blocking the event loop."""
        ...

    async def arank_many(
        self, requests: Sequence[Request], top_n: int | None = None, score_threshold: float | None = None
    ) -> list[list[RankedPassage]]:
        """Rank many without blocking the event loop."""
        ...


class RerankerSource:
    """Hands out one reranker: a shared one, or one that it loads when first asked.

    Args:
        config: What to load; None where a shared reranker does not tell.
        shared: A live reranker, never closed from here.
    """

    def __init__(self, config: Config | None, shared: RerankerLike | None = None) -> None:
        self.config: Config | None = config
        self._shared = shared
        self._lock = threading.Lock()
        self._loading: Future[Reranker | RemoteReranker] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle no loaded model: the copy loads its own; a shared reranker follows its own rule."""
        return type(self), (self.config, self._shared)

    @property
    def model_name(self) -> str:
        """What to call the model in events."""
        if isinstance(self.config, RemoteConfig):
            return self.config.model or self.config.url
        return type(self._shared).__name__ if self.config is None else self.config.model

    def get(self) -> RerankerLike:
        """Return the reranker, loading it if need be; callers in other threads share the load."""
        return self._started().result() if self._shared is None else self._shared

    async def aget(self) -> RerankerLike:
        """Return the reranker; a load runs off the event loop and outlives a cancelled caller."""
        if self._shared is not None:
            return self._shared
        loading = self._started()
        if not loading.done():
            await asyncio.wrap_future(loading)
        return loading.result()

    def warm_up(self) -> RerankerLike:
        """Return the reranker with its model loaded, a shared one that has not loaded yet included."""
        reranker = self.get()
        start = getattr(reranker, "start", None)
        if callable(start):
            start()
        return reranker

    async def awarm_up(self) -> RerankerLike:
        """Return the reranker with its model loaded, off the event loop."""
        await self.aget()
        return await asyncio.to_thread(self.warm_up)

    def close(self) -> None:
        """Free the model that was loaded here, once a load under way is over; the next use loads again."""
        with self._lock:
            loading, self._loading = self._loading, None
        if loading is not None:
            loading.add_done_callback(_close_loaded)

    def _started(self) -> Future[Reranker | RemoteReranker]:
        """Start the load unless one is under way or done.

        A thread of its own, not a pool's: a load takes seconds, and whoever waits for it must not
        hold the pool threads that the event loop's other work needs. The future is marked as
        running, so that one waiter that is cancelled does not cancel it for the others.
        """
        with self._lock:
            if self._loading is None:
                self._loading = Future()
                self._loading.set_running_or_notify_cancel()
                load = threading.Thread(target=self._load, args=(self._loading,), name="flag-rerank-load", daemon=True)
                load.start()
            return self._loading

    def _load(self, loading: Future[Reranker | RemoteReranker]) -> None:
        try:
            reranker = made_from(self.config or RerankConfig())
        except BaseException as error:  # noqa: BLE001 - it is raised again in every caller that waits
            with self._lock:
                if self._loading is loading:
                    self._loading = None  # the next use tries again
            loading.set_exception(error)
        else:
            loading.set_result(reranker)


def made_from(config: Config, *, start: bool = True) -> Reranker | RemoteReranker:
    """Return a reranker: one that loads a model, or one that asks a server.

    Args:
        config: What to make it of.
        start: Whether to start now, or when it is first used.

    Raises:
        RerankError: As the constructor of either.
    """
    if isinstance(config, RemoteConfig):
        from flag_rerank_integrations.remote import RemoteReranker

        return RemoteReranker.from_config(config, start=start)
    from flag_rerank_integrations.reranker import Reranker

    return Reranker.from_config(config, start=start)


def _close_loaded(loading: Future[Reranker | RemoteReranker]) -> None:
    if loading.exception() is None:
        loading.result().close()
