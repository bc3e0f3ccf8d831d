"""A worker process: loads one model on one device and answers frames until its parent is gone.

Started as `python -m flag_rerank_integrations.executors._child`, so the parent's main module
is never imported: no `__main__` guard is needed, and notebooks and stdin will do.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from dataclasses import asdict
from queue import SimpleQueue
from typing import Any, BinaryIO, Final, NoReturn

from flag_rerank_integrations.executors.frames import GREETING, read_frame, write_frame

# torch's name for what a device's driver reports. Most of these leave the process's context
# broken, so that every later call would fail: a new process, perhaps on another device, may not.
_DEVICE_LOST: Final = "AcceleratorError"


def main() -> None:
    """Be the worker."""
    frames_in, frames_out = _private_streams()
    _die_with_parent()
    frames_out.write(GREETING)
    setup = read_frame(frames_in)
    if setup is None:
        return
    inbox = _read_ahead(frames_in)
    outbox = _Outbox(frames_out)
    forward_log(outbox, setup["log_level"])
    try:
        scorer = _load(setup)
    except BaseException as error:  # noqa: BLE001 - the parent is told, whatever it was
        outbox.send({"fatal": described(error)})
        return
    outbox.send({"ready": {"pid": os.getpid()}, "stats": figures(scorer)})
    while True:
        outbox.send(answer(scorer, inbox.get()))


def _private_streams() -> tuple[BinaryIO, BinaryIO]:
    """Take standard input and output for frames, and leave stray prints and reads nothing to break."""
    frames_in, frames_out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return frames_in, frames_out


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent's thread ends, even while it is busy.

    Where there is no such call the end of the input pipe does it; see `_read_ahead`.
    """
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if sys.platform != "linux":
        return
    import ctypes

    parent = os.getppid()
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


class _Outbox(logging.Handler):
    """Sends messages to the parent, log records among them, one at a time."""

    def __init__(self, frames_out: BinaryIO) -> None:
        super().__init__()
        self._frames_out = frames_out
        self._one_at_a_time = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        with self._one_at_a_time:
            write_frame(self._frames_out, message)

    def emit(self, record: logging.LogRecord) -> None:
        self.send(told(record, self.format(record)))


def forward_log(handler: logging.Handler, level: int) -> None:
    """Hand this package's log records to a handler that has them told where the worker was started.

    Args:
        handler: Takes them.
        level: The least level that is heard there.
    """
    logger = logging.getLogger("flag_rerank_integrations")
    logger.addHandler(handler)
    logger.setLevel(level)


def told(record: logging.LogRecord, text: str) -> dict[str, Any]:
    """Return a log record as plain data.

    Args:
        record: Where it comes from, and how grave it is.
        text: Its message, and its exception's trace if it has one.
    """
    return {"log": text, "level": record.levelno, "logger": record.name}


def _read_ahead(frames_in: BinaryIO) -> SimpleQueue[dict[str, Any]]:
    """Read messages in a thread, which ends the process at once when the parent is gone."""
    inbox: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def watch() -> None:
        try:
            while (message := read_frame(frames_in)) is not None:
                inbox.put(message)
        except BaseException:  # noqa: BLE001 - out of memory, say; without this thread the process is deaf
            _end_in_words()
        os._exit(0)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
    return inbox


def _load(setup: dict[str, Any]) -> Any:  # noqa: ANN401 - Scorer is imported late: errors of its imports are told, too
    from flag_rerank_integrations.config import RerankConfig
    from flag_rerank_integrations.devices import Device
    from flag_rerank_integrations.scorer import Scorer

    return Scorer(RerankConfig.from_dict(setup["config"]), Device(setup["kind"], setup["index"]))


def answer(scorer: Any, message: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - as above
    """Score one shard; an exception becomes text, for not every exception can be sent."""
    try:
        task = _task(message)
        scored = scorer.score([(query, passage) for query, passage in message["pairs"]], task)
    except Exception as error:  # noqa: BLE001 - belongs to the caller; the worker serves on
        if type(error).__name__ == _DEVICE_LOST:
            _end_in_words()
        return {"id": message["id"], "error": described(error), "stats": figures(scorer)}
    return {
        "id": message["id"],
        "logits": scored.logits,
        "truncated_tokens": scored.truncated_tokens,
        "layers": scored.layers,
        "tokens": scored.tokens,
        "stats": figures(scorer),
    }


def _task(message: dict[str, Any]) -> Any:  # noqa: ANN401 - imported late, as above
    from flag_rerank_integrations.pairs import Task

    return Task(tuple(message["layers"]), tuple(message["counts"]))


def _end_in_words() -> NoReturn:
    """End the process at once, with the exception in hand as its last words."""
    traceback.print_exc()
    os._exit(1)


def described(error: BaseException) -> dict[str, str]:
    """Describe an exception as text, even one whose own `str` fails."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - somebody else's __str__
        text = "(its message cannot be shown)"
    trace = "".join(traceback.format_tb(error.__traceback__))
    return {"type": type(error).__name__, "message": text, "trace": trace}


def figures(scorer: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
    """Return a scorer's figures as plain data."""
    from flag_rerank_integrations.executors.memory import device_stats

    return {**asdict(scorer.stats), "devices": [asdict(device_stats(scorer.device))]}


if __name__ == "__main__":
    main()
