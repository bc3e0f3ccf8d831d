"""Python runs this first in every worker that finds it on its path: makes it break when asked to.

A pair ("sabotage", what) does to the worker what a bad driver, a full memory or a broken library
would do, in the middle of its scoring, and then goes on as any other pair if there is a then.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

from flag_rerank_integrations.executors import frames
from flag_rerank_integrations.scorer import Scorer

_FOR_EVER = 1_000_000
_MEBIBYTE = 1 << 20
_score, _write_frame = Scorer.score, frames.write_frame


class AcceleratorError(RuntimeError):
    """Stands for torch's error of this name, which only a device can raise."""


class _Unspeakable(Exception):  # noqa: N818 - hardly a name for an error
    """Cannot be pickled, copied, made again from its arguments, or printed."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(one)
        self.two = two
        self.held = open(os.devnull)  # noqa: PTH123, SIM115 - an open file cannot be pickled

    def __str__(self) -> str:
        msg = "no words for it"
        raise RuntimeError(msg)


def _hold_the_gil() -> None:
    ctypes.PyDLL(None).sleep(_FOR_EVER)


def _be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit_politely() -> None:
    os._exit(0)


def _overrun_memory() -> None:
    ctypes.string_at(0)


def _raise_the_unspeakable() -> NoReturn:
    raise _Unspeakable(sys.stderr, lambda: None)


def _lose_the_device() -> NoReturn:
    msg = "CUDA error: device-side assert triggered"
    raise AcceleratorError(msg)


def _send(rubbish: bytes) -> Callable[[], None]:
    def write_rubbish(stream: IO[bytes], _message: dict[str, Any]) -> None:
        stream.write(rubbish)
        stream.flush()

    def send() -> None:
        sys.modules["__main__"].write_frame = write_rubbish  # type: ignore[attr-defined]

    return send


def _limit_memory() -> None:
    """Leave the process 300 MiB to grow by: beyond that the system refuses."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + 300 * _MEBIBYTE
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))


FAULTS: dict[str, Callable[[], None]] = {
    "be killed": _be_killed,
    "exit politely": _exit_politely,
    "hold the GIL": _hold_the_gil,
    "limit memory": _limit_memory,
    "lose the device": _lose_the_device,
    "overrun memory": _overrun_memory,
    "raise the unspeakable": _raise_the_unspeakable,
    "send a list": _send(frames._HEADER.pack(2) + b"[]"),
    "send an endless frame": _send(frames._HEADER.pack((1 << 64) - 1)),
    "send no JSON": _send(frames._HEADER.pack(7) + b"rubbish"),
}


def _sabotaged(self: Scorer, pairs: Any, *task: Any) -> Any:
    for query, what in pairs:
        if query == "sabotage":
            Path(os.environ["SABOTAGE_MARKS"], str(os.getpid())).write_text(what)
            FAULTS[what]()
    return _score(self, pairs, *task)


Scorer.score = _sabotaged  # type: ignore[method-assign]
