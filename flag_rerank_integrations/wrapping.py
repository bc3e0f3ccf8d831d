"""What the framework wrappers share: a reranker of their own or a shared one, and how its options are fields."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, Protocol

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.errors import ConfigError
from flag_rerank_integrations.results import RankedPassage

if TYPE_CHECKING:
    from pydantic import ValidationError

    from flag_rerank_integrations.reranker import Reranker

__all__ = [
    "FIXED",
    "OPTIONS",
    "RerankerLike",
    "RerankerSource",
    "check_reranker",
    "check_settable",
    "copied_metadata",
    "plain_error",
    "settle_fields",
]

OPTIONS: Final = frozenset(option.name for option in dataclasses.fields(RerankConfig))
"""Names of the fields that describe a model."""

FIXED: Final = OPTIONS | {"reranker"}
"""Names of the fields that stay as they are once a wrapper is made: its model may be loaded."""

_UNKNOWN_FIELD: Final = frozenset({"extra_forbidden", "no_such_attribute"})

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


def check_reranker(reranker: object, verbs: Sequence[str]) -> None:
    """Refuse an object that cannot do what it is shared for.

    Args:
        reranker: The object.
        verbs: Names of the methods of `RerankerLike` that it must have.

    Raises:
        ConfigError: It lacks one; the message says which.
    """
    missing = [verb for verb in verbs if not callable(getattr(reranker, verb, None))]
    if missing or isinstance(reranker, type):
        lack = f"it has no {' and no '.join(missing)}" if missing else "it is a class, not an instance"
        msg = f"reranker must be a live Reranker or work like one, not {reranker!r}: {lack}."
        raise ConfigError(msg)


def settle_fields(fields: Mapping[str, Any], verbs: Sequence[str]) -> tuple[RerankConfig | None, dict[str, Any]]:
    """Validate the model options among some fields, or take over those of a shared reranker.

    Args:
        fields: What a wrapper was made with.
        verbs: The methods that it calls on a shared reranker.

    Returns:
        The config, None where a shared reranker has none; and all fields to set, options as JSON values.

    Raises:
        ConfigError: An option is wrong, options and `reranker` are given together, or `reranker` lacks a verb.
    """
    own = {name: value for name, value in fields.items() if name not in OPTIONS}
    given = {name: value for name, value in fields.items() if name in OPTIONS}
    reranker = own.get("reranker")
    if reranker is None:
        config = RerankConfig(**given)
        # `to_dict` leaves out a default max_length, given or not: it must go on adapting to the model.
        return config, own | {name: value for name, value in config.to_dict().items() if name in given}
    check_reranker(reranker, verbs)
    if given:
        msg = f"reranker= brings its own options: leave out {', '.join(sorted(given))}, or leave out reranker."
        raise ConfigError(msg)
    shared = getattr(reranker, "config", None)
    return (shared, own | shared.to_dict()) if isinstance(shared, RerankConfig) else (None, own)


def check_settable(wrapper: object, name: str) -> None:
    """Refuse to set a field that describes the model.

    Raises:
        ConfigError: It is one of `FIXED`.
    """
    if name in FIXED:
        msg = f"{name} is fixed once a {type(wrapper).__name__} is made; use model_copy(update={{{name!r}: ...}})."
        raise ConfigError(msg)


def plain_error(error: ValidationError) -> Exception:
    """Return this package's error for a wrong value; pydantic's own stays for a field that does not exist."""
    wrong = [detail for detail in error.errors() if detail["type"] not in _UNKNOWN_FIELD]
    for detail in wrong:
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            return cause
    said = (f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}, not {detail['input']!r}" for detail in wrong)
    return ConfigError("; ".join(said)) if wrong else error


def copied_metadata(metadata: Mapping[Any, Any]) -> dict[Any, Any]:
    """Copy metadata in depth; a value that refuses to be copied (a lock, an open file) is shared as it is."""
    return {key: _copied_value(value) for key, value in metadata.items()}


def _copied_value(value: object) -> object:
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001 - a value's own __deepcopy__ may raise anything
        return value


class RerankerSource:
    """Hands out one reranker: a shared one, or one that it loads when first asked.

    Args:
        config: What to load; None where a shared reranker does not tell.
        shared: A live reranker, never closed from here.
    """

    def __init__(self, config: RerankConfig | None, shared: RerankerLike | None = None) -> None:
        self.config = config
        self._shared = shared
        self._lock = threading.Lock()
        self._loading: Future[Reranker] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle no loaded model: the copy loads its own; a shared reranker follows its own rule."""
        return type(self), (self.config, self._shared)

    @property
    def model_name(self) -> str:
        """What to call the model in events."""
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

    def _started(self) -> Future[Reranker]:
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

    def _load(self, loading: Future[Reranker]) -> None:
        try:
            from flag_rerank_integrations.reranker import Reranker

            reranker = Reranker.from_config(self.config or RerankConfig())
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
