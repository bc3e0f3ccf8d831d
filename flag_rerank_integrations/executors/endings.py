"""How a process ends: by itself, by a signal, in time or not at all."""

from __future__ import annotations

import signal
import subprocess
from typing import Final

__all__ = ["GRACE_SECONDS", "exit_code", "explained", "let_end"]

# A process that has closed its pipes is about to end, and its exit code should be its own.
GRACE_SECONDS: Final = 1.0
# A killed process is gone in milliseconds, unless a driver holds it in the kernel.
_END_SECONDS = 10.0


def explained(code: int | None) -> str:
    """Name the signal that an exit code stands for, and who sends that one.

    Args:
        code: As `subprocess` gives it: negative for a signal; None where the process has not ended.
    """
    if code is None or code >= 0:
        return ""
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return ""
    hint = ": killed from outside, as the system does when memory runs out" if name == "SIGKILL" else ""
    return f" ({name}{hint})"


def let_end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process whose pipes are closed to end; kill it where it lives on, for it cannot be heard any more."""
    if exit_code(process, GRACE_SECONDS) is None:
        process.kill()
        exit_code(process)


def exit_code(process: subprocess.Popen[bytes], seconds: float | None = None) -> int | None:
    """Wait for a process that is about to end; None where it does not, in these or a killed one's seconds."""
    try:
        return process.wait(_END_SECONDS if seconds is None else seconds)
    except subprocess.TimeoutExpired:
        return None
