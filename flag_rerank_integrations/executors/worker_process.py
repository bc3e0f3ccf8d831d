"""The parent's side of one worker process: start it, ask it, notice when it is lost."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Final

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device, available_cores
from flag_rerank_integrations.errors import WorkerDied, WorkerTimeout
from flag_rerank_integrations.executors.endings import GRACE_SECONDS, exit_code, explained, let_end
from flag_rerank_integrations.executors.frames import read_frame, skip_to_greeting, write_frame
from flag_rerank_integrations.executors.starting import importable, module_command
from flag_rerank_integrations.executors.worker import error_of, level_heard, relay, stats_of
from flag_rerank_integrations.monitoring import cuda
from flag_rerank_integrations.results import RerankStats

__all__ = ["WorkerProcess", "worker_processes"]

logger: Final = logging.getLogger(__name__)

_LAST_WORDS: Final = 20
_MODULE: Final = "flag_rerank_integrations.executors._child"
# The variable that decides which devices of a kind a process can see at all.
_VISIBLE: Final = {"cuda": "CUDA_VISIBLE_DEVICES", "xpu": "ZE_AFFINITY_MASK", "npu": "ASCEND_RT_VISIBLE_DEVICES"}


class WorkerProcess:
    """One child process with one model on one device.

    To be started and asked from one thread, which must live as long as the process: on Linux
    the kernel ends the child together with the thread that started it.

    Args:
        config: Names the model.
        device: The device, as this process counts them.
        threads: How many threads the worker may compute with.
        on_exit: Called, from a thread of its own, when the process has ended.
        name: What messages call it.
    """

    def __init__(
        self, config: RerankConfig, device: Device, threads: int, on_exit: Callable[[], None], name: str
    ) -> None:
        self._on_exit = on_exit
        self.device: Device = device
        self.name: str = name
        self.stats: RerankStats = RerankStats()
        self._config = config
        own_name = cuda.driver_name(device.index or 0) if device.kind == "cuda" else None
        self._environment = child_environment(dict(os.environ), device, threads, own_name)
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._listener: threading.Thread | None = None
        self._why_ended = ""

    def start(self) -> None:
        """Start the process and wait until its model is loaded.

        Raises:
            RerankError: The load failed; the same class as if it had been loaded here.
            WorkerDied: The process ended before that, or the system did not let it start.
        """
        self._answers, self._last_words, self._why_ended = SimpleQueue(), deque(maxlen=_LAST_WORDS), ""
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this package's own module
                module_command(_MODULE),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment,
                start_new_session=True,  # Ctrl-C in a terminal goes to the parent alone
            )
        except OSError as error:
            msg = f"The system did not start a worker process for {self.name}: {error}."
            raise WorkerDied(msg) from error
        arguments = self._process, self._answers
        threading.Thread(target=self._read_answers, args=arguments, daemon=True).start()
        self._listener = threading.Thread(target=self._read_last_words, args=arguments, daemon=True)
        self._listener.start()
        # Inside the process the one visible accelerator is number 0.
        index = None if self.device.index is None else 0
        setup = {"config": self._config.to_dict(), "kind": self.device.kind, "index": index}
        self._send(setup | {"log_level": level_heard()})
        message = self._receive(None)
        if "fatal" in message:
            self.kill()
            raise error_of(message["fatal"], f"The worker for {self.name} could not start")

    def ask(self, message: dict[str, Any], timeout: float | None) -> dict[str, Any]:
        """Send a message and wait for its answer.

        Raises:
            WorkerDied: The process ended; the message names its exit code and last words.
            WorkerTimeout: No answer came in time.
            WorkerError: Scoring failed in the process, which lives on; or one of this package's
                other errors, if it was one.
        """
        self._send_in_time(message, timeout)
        answer = self._receive(timeout)
        if answer.get("id") != message["id"]:  # an answer is never taken for another request's
            self.interrupt("it answered something that was not asked")
            raise self._died()
        if "error" in answer:
            raise error_of(answer["error"], f"Scoring on {self.name} failed")
        return answer

    def kill(self) -> None:
        """End the process at once, and wait for it to be gone; safe twice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        if exit_code(process) is None:
            logger.warning("The worker for %s cannot be ended: process %d is left.", self.name, process.pid)
        if process.stdin is not None:  # the other two streams are closed by the threads that read them
            _close_quietly(process.stdin)

    def interrupt(self, why: str = "") -> None:
        """End the process from another thread; the one that waits for it is told that it died."""
        process = self._process
        if process is not None:
            self._why_ended = why
            process.kill()

    @property
    def running(self) -> bool:
        """Whether there is a process, and it lives."""
        process = self._process
        return process is not None and process.poll() is None

    @property
    def restartable(self) -> bool:
        """Whether one that has ended is to be started anew even while there is no work: always."""
        return True

    @property
    def pid(self) -> int | None:
        """The process's id, or None where there is none."""
        return None if self._process is None else self._process.pid

    def _send_in_time(self, message: dict[str, Any], timeout: float | None) -> None:
        """Send a message; a process that does not read, so that the pipe is full, is ended in time."""
        if timeout is None:
            self._send(message)
            return
        late = f"it did not take its work within {timeout=} seconds"
        guard = threading.Timer(timeout, self.interrupt, [late])
        guard.daemon = True
        guard.start()
        try:
            self._send(message)
        except WorkerDied as error:
            if self._why_ended == late:
                raise WorkerTimeout(str(error)) from None
            raise
        finally:
            guard.cancel()

    def _send(self, message: dict[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None:
            raise self._died()
        try:
            write_frame(process.stdin, message)
        except (OSError, ValueError):  # the pipe is broken, or closed already
            let_end(process)
            raise self._died() from None

    def _receive(self, timeout: float | None) -> dict[str, Any]:
        try:
            message = self._answers.get(timeout=timeout)
        except Empty:
            msg = f"The worker for {self.name} gave no answer within timeout={timeout} seconds."
            raise WorkerTimeout(msg) from None
        if message is None:
            raise self._died()
        if "stats" in message:
            self.stats = stats_of(message["stats"])
        return message

    def _died(self) -> WorkerDied:
        process = self._process
        code = None if process is None else exit_code(process)
        if self._listener is not None:
            self._listener.join(GRACE_SECONDS)  # what it said last may still be on its way
        why = f": {self._why_ended}" if self._why_ended else explained(code)
        words = " ".join(line.strip() for line in self._last_words if line.strip())
        said = f" Its last words: {words[-500:]}" if words else ""
        return WorkerDied(f"The worker for {self.name} ended with exit code {code}{why}.{said}")

    def _read_answers(self, process: subprocess.Popen[bytes], answers: SimpleQueue[dict[str, Any] | None]) -> None:
        """Pass frames on until the process is gone; what is no frame is as good as gone."""
        try:
            assert process.stdout is not None  # noqa: S101 - Popen was given PIPE
            if skip_to_greeting(process.stdout):
                while (message := read_frame(process.stdout)) is not None:
                    if "log" in message:
                        relay(message, self.name)
                    else:
                        answers.put(message)
        except Exception as error:  # noqa: BLE001 - whatever its bytes led to, it cannot be heard any more
            logger.info("The worker for %s sent something that cannot be read: %s", self.name, error)
            if self._process is process:
                self._why_ended = "it sent something that cannot be read"
            process.kill()
        finally:
            answers.put(None)
            let_end(process)
            _close_quietly(process.stdout)
            self._on_exit()

    def _read_last_words(self, process: subprocess.Popen[bytes], _answers: object) -> None:
        """Keep the end of what the process prints."""
        words = self._last_words
        assert process.stderr is not None  # noqa: S101 - Popen was given PIPE
        try:
            for line in process.stderr:
                words.append(line.decode("utf-8", "replace"))
        except (OSError, ValueError):
            logger.debug("The last words of the worker for %s cannot be read.", self.name)
        finally:
            _close_quietly(process.stderr)


def worker_processes(
    config: RerankConfig, devices: Sequence[Device], on_exit: Callable[[], None]
) -> list[WorkerProcess]:
    """Make one process for each device, not started yet; they share the cores evenly.

    Args:
        config: Names the model.
        devices: Where to load it, once each; a CPU may occur several times.
        on_exit: See `WorkerProcess`.
    """
    threads = max(1, available_cores() // len(devices))
    names = names_of(devices)
    return [WorkerProcess(config, device, threads, on_exit, name) for device, name in zip(devices, names, strict=True)]


def names_of(devices: Sequence[Device]) -> list[str]:
    """Return a name for the worker of each device: the device's, with a number where several workers share it."""
    seen: Counter[Device] = Counter()
    names = []
    for device in devices:
        seen[device] += 1
        names.append(f"{device} #{seen[device]}" if devices.count(device) > 1 else str(device))
    return names


def child_environment(
    environment: dict[str, str], device: Device, threads: int, own_name: str | None = None
) -> dict[str, str]:
    """Return the environment of a worker: its device alone is visible, and its share of the cores.

    Args:
        environment: This process's variables; a mask of visible devices among them is mapped.
        device: The device, as this process counts them.
        threads: How many threads the worker may compute with.
        own_name: The driver's name of the device, where it is known: numbers depend on the order of counting.
    """
    child = dict(environment)
    for kind, variable in _VISIBLE.items():
        if kind == device.kind:
            visible = [item.strip() for item in environment.get(variable, "").split(",") if item.strip()]
            index = device.index or 0
            child[variable] = own_name or (visible[index] if index < len(visible) else str(index))
        elif kind == "cuda":
            child[variable] = ""  # a worker for another kind never touches a CUDA device
    child["OMP_NUM_THREADS"] = child["MKL_NUM_THREADS"] = child["RAYON_NUM_THREADS"] = str(threads)
    return importable(child)


def _close_quietly(stream: Any) -> None:  # noqa: ANN401 - any pipe's end
    try:
        stream.close()
    except OSError:
        logger.debug("A pipe to an ended worker was already broken.")
