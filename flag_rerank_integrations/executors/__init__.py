"""Who computes: for one device a worker thread of this process, for several a process each, or Ray actors."""

from __future__ import annotations

from functools import partial

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import resolve
from flag_rerank_integrations.executors.base import Executor
from flag_rerank_integrations.ray_options import ray_options

__all__ = ["Executor", "start"]


def start(config: RerankConfig) -> Executor:
    """Check the devices, load the model on them, and return what will run it.

    Raises:
        RerankError: The device does not exist or the model cannot be loaded; see the subclass.
    """
    ray = ray_options(config.device, config.ray)
    if ray is not None:
        from flag_rerank_integrations.executors.ray_executor import RayExecutor

        return RayExecutor(config, ray)
    devices = resolve(config.device)
    if len(devices) == 1:
        from flag_rerank_integrations.executors.local import LocalExecutor

        return LocalExecutor(config, devices[0])
    from flag_rerank_integrations.executors.pool import PoolExecutor
    from flag_rerank_integrations.executors.worker_process import worker_processes

    return PoolExecutor(config, partial(worker_processes, config, devices))
