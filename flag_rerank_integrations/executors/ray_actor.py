"""What runs in the cluster: a Ray actor that holds one model and answers messages.

It does what a worker process does (`_child`), with Ray's calls in place of frames. Ray
imports this module on the actor's node, so the package must be installed there.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import ray

from flag_rerank_integrations import __version__
from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import CPU, Device, resolve
from flag_rerank_integrations.errors import DeviceError
from flag_rerank_integrations.executors._child import answer, described, figures

__all__ = ["WATCH", "RerankActor"]

WATCH = "watch"
"""The concurrency group of `stay`, which so keeps no message waiting."""


class RerankActor:
    """One model on the device that Ray gives this actor."""

    def __init__(self) -> None:
        self._scorer: Any = None

    def hello(self) -> dict[str, Any]:
        """Say where this is; that it answers shows that the cluster found room."""
        return {"version": __version__, "pid": os.getpid(), "node": ray.util.get_node_ip_address()}

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        """Load the model; an exception becomes text, for not every exception can be sent.

        Args:
            options: A config, as `RerankConfig.to_dict` gives it.
        """
        try:
            from flag_rerank_integrations.scorer import Scorer

            device = given_device()
            self._scorer = Scorer(RerankConfig.from_dict(options), device)
        except BaseException as error:  # noqa: BLE001 - the driver is told, whatever it was
            return {"fatal": described(error)}
        return {"device": str(device), "stats": figures(self._scorer)}

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Score one message's pairs."""
        return answer(self._scorer, message)

    @ray.method(concurrency_group=WATCH)  # type: ignore[untyped-decorator]
    def stay(self) -> None:
        """Never return: this call's failure tells the driver at once that the actor has ended."""
        threading.Event().wait()


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
