"""The rerankers whose figures are exported, by the names that tell them apart."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from flag_rerank_integrations.errors import ConfigError, MissingExtraError
from flag_rerank_integrations.results import RerankStats

__all__ = ["HasStats", "Sources", "missing_extra"]


@runtime_checkable
class HasStats(Protocol):
    """A `Reranker`, a `RemoteReranker`, or whatever else keeps their figures."""

    def stats(self) -> RerankStats:
        """Return figures about all work done so far."""
        ...


class Sources:
    """Rerankers by name; for use from any thread.

    Args:
        rerankers: The first ones.

    Raises:
        ConfigError: A name is not a string or empty, or something has no `stats()`.
    """

    def __init__(self, rerankers: Mapping[str, HasStats]) -> None:
        self._lock = threading.Lock()
        self._rerankers: dict[str, HasStats] = {}
        if not isinstance(rerankers, Mapping):
            msg = f'rerankers must be a mapping such as {{"main": reranker}}, not {type(rerankers).__name__}.'
            raise ConfigError(msg)
        for name, reranker in rerankers.items():
            self.add(name, reranker)

    def add(self, name: str, reranker: HasStats) -> None:
        """Add one.

        Raises:
            ConfigError: The name is taken, not a string or empty; or it has no `stats()`.
        """
        if not isinstance(name, str) or not name:
            msg = f"A reranker's name must be a string that is not empty, not {name!r}."
            raise ConfigError(msg)
        if not isinstance(reranker, HasStats):
            msg = f"{name!r} must be a reranker with stats(), not {type(reranker).__name__}."
            raise ConfigError(msg)
        with self._lock:
            if name in self._rerankers:
                msg = f"There is a reranker of the name {name!r} already."
                raise ConfigError(msg)
            self._rerankers[name] = reranker

    def remove(self, name: str) -> None:
        """Forget one.

        Raises:
            ConfigError: There is none of this name.
        """
        with self._lock:
            if self._rerankers.pop(name, None) is None:
                msg = f"There is no reranker of the name {name!r}; there is {', '.join(self._rerankers) or 'none'}."
                raise ConfigError(msg)

    def read(self) -> dict[str, RerankStats]:
        """Return the figures of each, as they are now."""
        with self._lock:
            rerankers = dict(self._rerankers)
        return {name: reranker.stats() for name, reranker in rerankers.items()}


def missing_extra(what: type, error: ModuleNotFoundError) -> MissingExtraError:
    """Return the error of a library that is not installed, or raise what else was not found.

    Args:
        what: What needs it.
        error: What importing it raised.
    """
    if (error.name or "").split(".")[0] not in ("prometheus_client", "opentelemetry"):
        raise error
    msg = f"{what.__name__} needs {error.name}: pip install 'flag-rerank-integrations[monitoring]'"
    return MissingExtraError(msg, name=error.name)
