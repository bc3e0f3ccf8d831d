"""Who computes: for one device a worker thread of this process, for several a process each."""

from __future__ import annotations

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import resolve
from flag_rerank_integrations.executors.base import Executor

__all__ = ["Executor", "start"]


def start(config: RerankConfig) -> Executor:
    """Check the devices, load the model on them, and return what will run it.

    Raises:
        RerankError: The device does not exist or the model cannot be loaded; see the subclass.
    """
    devices = resolve(config.device)
    if len(devices) == 1:
        from flag_rerank_integrations.executors.local import LocalExecutor

        return LocalExecutor(config, devices[0])
    from flag_rerank_integrations.executors.process import ProcessExecutor

    return ProcessExecutor(config, devices)
