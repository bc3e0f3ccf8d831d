"""Where a wrapper's reranker comes from: what it must be able to do, and loading it once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, Protocol

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.errors import ConfigError
from flag_rerank_integrations.results import RankedPassage

if TYPE_CHECKING:
    from flag_rerank_integrations.reranker import Reranker

__all__ = ["RerankerLike", "RerankerSource", "check_reranker"]

Request = tuple[str, Sequence[str]]
"""(query, passages)."""

_VERBS: Final = ("score", "rank", "rank_many", "ascore", "arank", "arank_many")


class RerankerLike(Protocol):
    """Anything that ranks as a `Reranker` does, wherever its model runs."""

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


def check_reranker(reranker: object) -> None:
    """Refuse an object that cannot rank.

    Raises:
        ConfigError: It lacks a method of `RerankerLike`; the message says which.
    """
    missing = [verb for verb in _VERBS if not callable(getattr(reranker, verb, None))]
    if missing or isinstance(reranker, type):
        lack = f"it has no {', '.join(missing)}" if missing else "it is a class, not an instance"
        msg = f"reranker must be a Reranker or work like one, not {reranker!r}: {lack}."
        raise ConfigError(msg)


class RerankerSource:
    """Loads one reranker, once, when it is first asked for.

    Args:
        config: What to load.
    """

    def __init__(self, config: RerankConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._loading: Future[Reranker] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the config only: the copy loads its own model when it is used."""
        return RerankerSource, (self._config,)

    def get(self) -> Reranker:
        """Return the reranker, loading it if need be; callers in other threads share the load."""
        return self._start().result()

    async def aget(self) -> Reranker:
        """Return the reranker; a load runs off the event loop and outlives a cancelled caller."""
        loading = self._start()
        return loading.result() if loading.done() else await asyncio.wrap_future(loading)

    def close(self) -> None:
        """Free the model, once a load under way is over; the next use loads it again. Safe to call twice."""
        with self._lock:
            loading, self._loading = self._loading, None
        if loading is not None:
            loading.add_done_callback(_close_loaded)

    def _start(self) -> Future[Reranker]:
        """Start the load unless one is under way or done.

        A thread of its own, not a pool's: a load takes seconds, and whoever waits for it
        must not hold the pool threads that the event loop's other work needs. The future is
        marked as running, so that one waiter that is cancelled does not cancel it for the others.
        """
        with self._lock:
            if self._loading is None:
                self._loading = Future()
                self._loading.set_running_or_notify_cancel()
                load = threading.Thread(target=self._load, args=(self._loading,), name="flag-rerank-load", daemon=True)
                load.start()
            return self._loading

    def _load(self, loading: Future[Reranker]) -> None:
        try:
            from flag_rerank_integrations.reranker import Reranker

            reranker = Reranker.from_config(self._config)
        except BaseException as error:  # noqa: BLE001 - it is raised again in every caller that waits
            with self._lock:
                if self._loading is loading:
                    self._loading = None  # the next use tries again
            loading.set_exception(error)
        else:
            loading.set_result(reranker)


def _close_loaded(loading: Future[Reranker]) -> None:
    if loading.exception() is None:
        loading.result().close()
