"""The other side of a measuring process: start it, wait for its figures, say why there are none."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import fields
from typing import IO, Any, Final

from flag_rerank_integrations.bench.measurement import Round
from flag_rerank_integrations.bench.workload import Workload
from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.errors import WorkerDied
from flag_rerank_integrations.executors.endings import exit_code, explained, let_end
from flag_rerank_integrations.executors.frames import read_frame, skip_to_greeting, write_frame
from flag_rerank_integrations.executors.starting import importable, module_command
from flag_rerank_integrations.executors.worker import error_of

__all__ = ["visit"]

_MODULE: Final = "flag_rerank_integrations.bench._measuring"
_LAST_WORDS: Final = 500
_SEQUENCES: Final = ("passes", "latencies")


def visit(config: RerankConfig, workload: Workload, seconds: float) -> Round:
    """Measure one setting once, in a process of its own.

    Args:
        config: The setting, with all other options.
        workload: What to score.
        seconds: How long to measure, loading not included.

    Raises:
        RerankError: The model cannot be loaded or run in this way; the same class as if it had been done here.
        WorkerDied: The process ended without an answer.
    """
    task = {"config": config.to_dict(), "requests": workload.requests, "seconds": seconds}
    with tempfile.TemporaryFile() as said:
        answer = _asked(task, said)
    if "failed" in answer:
        raise error_of(answer["failed"], "Measuring failed")
    known = {field.name for field in fields(Round)}
    figures = {name: value for name, value in answer["measured"].items() if name in known}
    return Round(**{**figures, **{name: tuple(figures[name]) for name in _SEQUENCES}})


def _asked(task: dict[str, Any], said: IO[bytes]) -> dict[str, Any]:
    """Start the process, hand it the task and wait for the answer; it is gone when this returns.

    Raises:
        WorkerDied: There is no answer.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - this package's own module
            module_command(_MODULE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=importable(os.environ),
            start_new_session=True,  # Ctrl-C in a terminal goes to the parent alone
        )
    except OSError as error:
        msg = f"The system did not start a process to measure in: {error}."
        raise WorkerDied(msg) from error
    try:
        answer = _exchanged(process, task)
        if answer is None:
            let_end(process)
            raise _died(process, said)
        return answer
    finally:
        process.kill()
        process.communicate()


def _exchanged(process: subprocess.Popen[bytes], task: dict[str, Any]) -> dict[str, Any] | None:
    """Send the task and wait for the answer; None says that the process is gone, or cannot be understood."""
    assert process.stdin is not None  # noqa: S101 - Popen was given PIPE
    assert process.stdout is not None  # noqa: S101 - likewise
    try:
        write_frame(process.stdin, task)
        return read_frame(process.stdout) if skip_to_greeting(process.stdout) else None
    except (OSError, ValueError):
        return None


def _died(process: subprocess.Popen[bytes], said: IO[bytes]) -> WorkerDied:
    code = exit_code(process)
    said.seek(0)
    words = " ".join(said.read().decode("utf-8", "replace").split())
    last = f" Its last words: {words[-_LAST_WORDS:]}" if words else ""
    return WorkerDied(f"The measuring process ended with exit code {code}{explained(code)}.{last}")
