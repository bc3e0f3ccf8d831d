"""What runs in the cluster: a Ray actor that holds one model and answers messages.

It does what a worker process does (`_child`), with Ray's calls in place of frames. Ray
imports this module on the actor's node, so the package must be installed there.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from typing import Any, Final

import ray

from flag_rerank_integrations import __version__
from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import CPU, Device, resolve
from flag_rerank_integrations.errors import DeviceError
from flag_rerank_integrations.executors._child import answer, described, figures, forward_log, told

__all__ = ["WATCH", "RerankActor"]

WATCH: Final = "watch"
"""The concurrency group of `stay`, which so keeps no message waiting."""


_MOST_RECORDS: Final = 1000


class RerankActor:
    """One model on the device that Ray gives this actor."""

    def __init__(self) -> None:
        self._scorer: Any = None
        self._log = _Log()

    def hello(self) -> dict[str, Any]:
        """Say where this is; that it answers shows that the cluster found room."""
        return {"version": __version__, "pid": os.getpid(), "node": ray.util.get_node_ip_address()}

    def load(self, options: dict[str, Any], log_level: int) -> dict[str, Any]:
        """Load the model; an exception becomes text, for not every exception can be sent.

        Args:
            options: A config, as `RerankConfig.to_dict` gives it.
            log_level: The least level of log records that the driver wants to be told.
        """
        forward_log(self._log, log_level)
        try:
            from flag_rerank_integrations.scorer import Scorer

            device = given_device()
            self._scorer = Scorer(RerankConfig.from_dict(options), device)
        except BaseException as error:  # noqa: BLE001 - the driver is told, whatever it was
            return {"fatal": described(error), "logs": self._log.taken()}
        return {"device": str(device), "stats": figures(self._scorer), "logs": self._log.taken()}

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Score one message's pairs."""
        return answer(self._scorer, message) | {"logs": self._log.taken()}

    @ray.method(concurrency_group=WATCH)  # type: ignore[untyped-decorator]
    def stay(self) -> None:
        """Never return: this call's failure tells the driver at once that the actor has ended."""
        threading.Event().wait()


class _Log(logging.Handler):
    """Keeps log records until the next answer takes them to the driver."""

    def __init__(self) -> None:
        super().__init__()
        self._records: deque[dict[str, Any]] = deque(maxlen=_MOST_RECORDS)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one; the oldest is lost where there are too many."""
        self._records.append(told(record, self.format(record)))

    def taken(self) -> list[dict[str, Any]]:
        """Return what was logged since the last time."""
        return [self._records.popleft() for _ in range(len(self._records))]


def given_device() -> Device:
    """Return the device that Ray made visible to this actor, or the CPU where it was given none.

    Raises:
        DeviceError: There is one, but torch cannot use it.
    """
    given = {kind: ids for kind, ids in ray.get_runtime_context().get_accelerator_ids().items() if ids}
    if not given:
        return CPU
    (device,) = resolve("auto")
    if device == CPU:
        shown = ", ".join(f"{kind} {' '.join(ids)}" for kind, ids in given.items())
        msg = f"Ray gives this worker {shown}, but torch on {ray.util.get_node_ip_address()} sees no accelerator."
        raise DeviceError(msg)
    return device
