"""What a pool asks of a worker: a process on this machine and a Ray actor are interchangeable."""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import Any, Protocol

from flag_rerank_integrations import errors
from flag_rerank_integrations.errors import RerankError, WorkerError
from flag_rerank_integrations.results import DeviceStats, RerankStats

__all__ = ["Worker", "error_of", "level_heard", "relay", "stats_of"]


class Worker(Protocol):
    """One model on one device somewhere; to be started and asked from one thread."""

    stats: RerankStats

    @property
    def device(self) -> object:
        """What `str` names in figures; several workers may share one."""
        ...

    @property
    def name(self) -> str:
        """What messages call it: no other worker of the pool is called so."""
        ...

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        ...

    @property
    def restartable(self) -> bool:
        """Whether one that has ended is to be started anew even while there is no work."""
        ...

    def start(self) -> None:
        """Start it, and wait until its model is loaded.

        Raises:
            RerankError: The load failed; the same class as if it had been loaded here.
            WorkerDied: It ended before that.
        """
        ...

    def ask(self, message: dict[str, Any], timeout: float | None) -> dict[str, Any]:
        """Send a message and wait for its answer.

        Raises:
            WorkerDied: It ended; the message says why, as far as is known.
            WorkerTimeout: No answer came in time.
            WorkerError: Scoring failed there, and it lives on; or one of this package's other
                errors, if it was one.
        """
        ...

    def kill(self) -> None:
        """End it at once, and wait for it to be gone; safe twice."""
        ...

    def interrupt(self) -> None:
        """End it from another thread; the one that waits for it is told that it died."""
        ...


def error_of(described: dict[str, str], what: str) -> RerankError:
    """Make an exception of a worker's description: one of ours by its name, else a WorkerError.

    Args:
        described: Its type, message and trace, as text.
        what: What failed, for an exception that is not ours.
    """
    kind = getattr(errors, described["type"], None)
    if isinstance(kind, type) and issubclass(kind, RerankError):
        return kind(described["message"])
    return WorkerError(f"{what}: {described['type']}: {described['message']}\n{described['trace']}".rstrip())


def level_heard() -> int:
    """Return the least level of log records that this process asks this package for: others need not be sent."""
    return logging.getLogger("flag_rerank_integrations").getEffectiveLevel() or 1  # 0 would stand for "as the root"


def relay(told: dict[str, Any], worker: str) -> None:
    """Log here what a worker of this name has logged, under the same logger's name."""
    logging.getLogger(told["logger"]).log(told["level"], "[%s] %s", worker, told["log"])


def stats_of(figures: dict[str, Any]) -> RerankStats:
    """Make a snapshot of the figures that a worker sends; what this version does not know is left out."""
    devices = tuple(DeviceStats(**device) for device in figures["devices"])
    known = {field.name for field in fields(RerankStats)}
    return RerankStats(**{name: value for name, value in figures.items() if name in known} | {"devices": devices})
