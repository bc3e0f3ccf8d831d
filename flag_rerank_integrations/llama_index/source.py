"""Where the postprocessor's reranker comes from: its options, or a live one to share."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final, Protocol

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.errors import ConfigError
from flag_rerank_integrations.results import RankedPassage

__all__ = ["OPTIONS", "RankerLike", "RankerSource", "settle_fields"]

OPTIONS: Final = frozenset(option.name for option in dataclasses.fields(RerankConfig))
"""Names of the fields that describe a model."""

_VERBS: Final = ("rank", "arank")


class RankerLike(Protocol):
    """What a shared reranker must be able to do; a `Reranker` does."""

    def rank(
        self, query: str, passages: Sequence[str], top_n: int | None = None, score_threshold: float | None = None
    ) -> list[RankedPassage]:
        """Rank the passages of one query, best first."""
        ...

    async def arank(
        self, query: str, passages: Sequence[str], top_n: int | None = None, score_threshold: float | None = None
    ) -> list[RankedPassage]:
        """Rank the passages of one query, best first, without blocking the event loop."""
        ...


def settle_fields(fields: Mapping[str, Any]) -> tuple[RerankConfig | None, dict[str, Any]]:
    """Validate the model options among some fields, or take over those of a shared reranker.

    Args:
        fields: What a wrapper was made with.

    Returns:
        The config, None where a shared reranker has none; and all fields to set, options as JSON values.

    Raises:
        ConfigError: An option is wrong, or options and `reranker` are given together.
    """
    own = {name: value for name, value in fields.items() if name not in OPTIONS}
    given = {name: value for name, value in fields.items() if name in OPTIONS}
    reranker = own.get("reranker")
    if reranker is None:
        config = RerankConfig(**given)
        # `to_dict` leaves out a default max_length, given or not: it must go on adapting to the model.
        return config, own | {name: value for name, value in config.to_dict().items() if name in given}
    _check_reranker(reranker)
    if given:
        msg = f"reranker= brings its own options: leave out {', '.join(sorted(given))}, or leave out reranker."
        raise ConfigError(msg)
    shared = getattr(reranker, "config", None)
    return (shared, own | shared.to_dict()) if isinstance(shared, RerankConfig) else (None, own)


def _check_reranker(reranker: object) -> None:
    """Refuse an object that cannot rank."""
    missing = [verb for verb in _VERBS if not callable(getattr(reranker, verb, None))]
    if missing or isinstance(reranker, type):
        lack = f"it has no {' and no '.join(missing)}" if missing else "it is a class, not an instance"
        msg = f"reranker must be a live Reranker or work like one, not {reranker!r}: {lack}."
        raise ConfigError(msg)


class RankerSource:
    """Hands out one reranker: a shared one, or one that it loads when first asked.

    Args:
        config: What to load; None where a shared reranker does not tell.
        shared: A live reranker, never closed from here.
    """

    def __init__(self, config: RerankConfig | None, shared: RankerLike | None) -> None:
        self.config = config
        self._shared = shared
        self._lock = threading.Lock()
        self._loading: Future[RankerLike] | None = None

    @property
    def model_name(self) -> str:
        """What to call the model in events."""
        return type(self._shared).__name__ if self.config is None else self.config.model

    def get(self) -> RankerLike:
        """Return the reranker, loading it if need be; callers in other threads share the load."""
        return self._loaded().result() if self._shared is None else self._shared

    async def aget(self) -> RankerLike:
        """Return the reranker; a load runs off the event loop and outlives a cancelled caller."""
        if self._shared is not None:
            return self._shared
        loading = self._loaded()
        return loading.result() if loading.done() else await asyncio.wrap_future(loading)

    def close(self) -> None:
        """Free the model that was loaded here, once a load under way is over; the next use loads again."""
        with self._lock:
            loading, self._loading = self._loading, None
        if loading is not None:
            loading.add_done_callback(_close_loaded)

    def _loaded(self) -> Future[RankerLike]:
        """Start the load unless one is under way or done; one that failed is tried again.

        A thread of its own, not one of a pool: those who wait must not hold the threads that the
        event loop's other work needs. A future that runs cannot be cancelled by one of its waiters.
        """
        with self._lock:
            loading = self._loading
            if loading is None or (loading.done() and loading.exception() is not None):
                loading = self._loading = Future()
                loading.set_running_or_notify_cancel()
                thread = threading.Thread(target=self._load, args=(loading,), name="flag-rerank-load", daemon=True)
                thread.start()
            return loading

    def _load(self, loading: Future[RankerLike]) -> None:
        try:
            from flag_rerank_integrations.reranker import Reranker

            loading.set_result(Reranker.from_config(self.config or RerankConfig()))
        except BaseException as error:  # noqa: BLE001 - it is raised again in everyone who waits
            loading.set_exception(error)


def _close_loaded(loading: Future[Any]) -> None:
    if loading.exception() is None:
        loading.result().close()
