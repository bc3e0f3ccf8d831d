"""The driver's side of one Ray actor: start it, ask it, notice when it is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from flag_rerank_integrations import __version__
from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.errors import ConfigError, WorkerDied, WorkerError, WorkerTimeout
from flag_rerank_integrations.executors.ray_cluster import connect, gpus_of_a_worker, no_room, session
from flag_rerank_integrations.executors.worker import error_of, level_heard, relay, stats_of
from flag_rerank_integrations.ray_options import RayOptions
from flag_rerank_integrations.results import RerankStats

__all__ = ["RayWorker"]

# Ray tells that an actor is gone within milliseconds, whatever its process is doing.
_KILL_SECONDS: Final = 5.0
_SHOWN_CHARACTERS: Final = 500


class RayWorker:
    """One Ray actor with one model on the device that Ray gives it.

    Ray neither restarts it nor repeats calls: the pool does, as for any other worker.

    Args:
        config: Names the model.
        options: What the actor asks of the cluster.
        number: Tells it from the pool's other workers.
        on_exit: Called, from a thread of Ray's, when the actor has ended.
    """

    def __init__(self, config: RerankConfig, options: RayOptions, number: int, on_exit: Callable[[], None]) -> None:
        self.stats: RerankStats = RerankStats()
        self.device: str = f"ray:{number}"
        self.pid: int | None = None
        self._name = self.device
        # What the actor loads is its own affair: it runs alone, on what Ray gives it.
        self._setup = config.replace(device="auto", ray=None).to_dict()
        self._options = options
        self._on_exit = on_exit
        self._actor: Any = None
        self._session: str | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Have the cluster place an actor, and wait until its model is loaded.

        Raises:
            RerankError: The load failed; the same class as if it had been loaded here.
            DeviceError: The cluster found no room within `placement_timeout`.
            WorkerDied: The actor ended before that, or its node has no such package.
        """
        ray = connect(self._options)
        wanted = self._place(ray)
        try:
            found = self._get(self._actor.hello.remote(), self._options.placement_timeout)
        except WorkerTimeout:
            raise no_room(wanted, self._options.placement_timeout) from None
        if found["version"] != __version__:
            msg = f"{self.device} on {found['node']} runs version {found['version']}, this process {__version__}."
            raise WorkerError(msg)
        self.pid = found["pid"]
        loaded = self._get(self._actor.load.remote(self._setup, level_heard()), None)
        self._relay(loaded)
        if "fatal" in loaded:
            raise error_of(loaded["fatal"], f"The worker for {self.device} on {found['node']} could not start")
        self.stats = stats_of(loaded["stats"])
        self.device = f"{self._name} ({loaded['device']} on {found['node']})"

    def ask(self, message: dict[str, Any], timeout: float | None) -> dict[str, Any]:
        """Send a message and wait for its answer: of this very call, for Ray tells calls apart.

        Raises:
            WorkerDied: The actor ended; the message says what Ray knows of it.
            WorkerTimeout: No answer came in time.
            WorkerError: Scoring failed in the actor, which lives on; or one of this package's
                other errors, if it was one.
        """
        actor = self._actor
        if actor is None or not self.running:
            reason = "it was gone before it was asked"
            raise self._died(reason)
        answer: dict[str, Any] = self._get(actor.answer.remote(message), timeout)
        self._relay(answer)
        self.stats = stats_of(answer["stats"])
        if "error" in answer:
            raise error_of(answer["error"], f"Scoring on {self.device} failed")
        return answer

    def kill(self) -> None:
        """End the actor at once, and wait until Ray says that it is gone; safe twice."""
        self.interrupt()
        if self._actor is not None and self._connected():
            self._ended.wait(_KILL_SECONDS)
        self._actor = self.pid = None
        self.device = self._name

    def interrupt(self) -> None:
        """End the actor from another thread; the one that waits for it is told that it died."""
        actor = self._actor
        if actor is not None and self._connected():
            import ray

            ray.kill(actor)

    @property
    def name(self) -> str:
        """What messages call it: its number and, while it runs, where that is."""
        return self.device

    @property
    def running(self) -> bool:
        """Whether there is an actor, and it lives."""
        return self._actor is not None and not self._ended.is_set() and self._connected()

    @property
    def restartable(self) -> bool:
        """Whether one that has ended is to be started anew while there is no work.

        Not where this process has left the cluster: that was somebody's wish, and stands until
        there is work to do.
        """
        return self._connected()

    def _relay(self, answer: dict[str, Any]) -> None:
        for told in answer["logs"]:
            relay(told, self.name)

    def _connected(self) -> bool:
        """Tell whether this process still has the connection that the actor belongs to: others may end it."""
        return self._session is not None and self._session == session()

    def _place(self, ray: Any) -> dict[str, Any]:  # noqa: ANN401 - the module
        """Ask the cluster for an actor, and return what it was asked for."""
        from flag_rerank_integrations.executors.ray_actor import WATCH, RerankActor

        options = self._options
        amounts = {"num_cpus": options.num_cpus, "num_gpus": gpus_of_a_worker(options), "resources": options.resources}
        self._session = session()
        try:
            self._actor = ray.remote(
                **amounts,
                runtime_env=options.runtime_env,
                max_restarts=0,
                max_task_retries=0,
                concurrency_groups={WATCH: 1},
            )(RerankActor).remote()
        except (TypeError, ValueError) as error:
            msg = f"Ray refuses these options of a worker: {error}"
            raise ConfigError(msg) from error
        ended = self._ended = threading.Event()

        def on_end(_outcome: object) -> None:
            ended.set()
            self._on_exit()

        self._actor.stay.remote().future().add_done_callback(on_end)
        return {"CPU": amounts["num_cpus"], "GPU": amounts["num_gpus"], **options.resources}

    def _get(self, reference: Any, timeout: float | None) -> Any:  # noqa: ANN401 - what the actor's method returns
        """Wait for what a call returns.

        Raises:
            WorkerTimeout: It did not in time.
            WorkerDied: It never will; whatever Ray says of it, no caller may wait for ever.
        """
        import ray

        try:
            return ray.get(reference, timeout=timeout)
        except ray.exceptions.GetTimeoutError:
            msg = f"The worker for {self.device} gave no answer within timeout={timeout} seconds."
            raise WorkerTimeout(msg) from None
        except Exception as error:  # noqa: BLE001 - RayError and, where the connection ended, others
            raise self._died(str(error)) from None

    def _died(self, reason: str) -> WorkerDied:
        """Make the error of an actor that is gone; Ray's account of it ends with the reason."""
        told = " ".join(reason.split())
        told = told[max(0, told.find("The actor is dead because")) :].partition(" Some common causes")[0]
        return WorkerDied(f"The worker for {self.device} ended: {told[:_SHOWN_CHARACTERS]}")
