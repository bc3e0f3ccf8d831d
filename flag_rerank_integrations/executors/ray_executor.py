"""Many machines: one Ray actor for each worker, and the same pool as for processes."""

from __future__ import annotations

import atexit
from collections.abc import Callable

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.executors.pool import PoolExecutor
from flag_rerank_integrations.executors.ray_cluster import connect
from flag_rerank_integrations.executors.ray_worker import RayWorker
from flag_rerank_integrations.ray_options import RayOptions

__all__ = ["RayExecutor"]


class RayExecutor(PoolExecutor):
    """Scores in Ray actors, wherever the cluster places them.

    Args:
        config: Names the model.
        options: How many actors, and what each of them gets.

    Raises:
        RerankError: There is no Ray, no room, or no such model; see the subclass.
    """

    def __init__(self, config: RerankConfig, options: RayOptions) -> None:
        connect(options)

        def workers(on_exit: Callable[[], None]) -> list[RayWorker]:
            return [RayWorker(config, options, number, on_exit) for number in range(options.num_workers)]

        super().__init__(config, workers)
        # Ray ends its connection at exit, and must find no thread that waits in it. It has
        # registered for that before, and what is registered last runs first.
        atexit.register(self._stop)

    def close(self) -> None:
        """Kill the actors, fail what is still queued with `WorkerError`; safe twice."""
        atexit.unregister(self._stop)
        super().close()
