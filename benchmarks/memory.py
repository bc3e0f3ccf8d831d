"""Peak memory of one system in a process of its own: `python -m benchmarks.memory SYSTEM MODEL WORKLOAD`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

__all__ = ["Peak", "peak_of"]

Peak = tuple[int, int]
"""Bytes at most, and bytes before the first pair was scored."""

_LIMIT_SECONDS: Final = 3600


def peak_of(system: str, model: str, workload: str, threads: int) -> Peak | str:
    """Measure in a child process; a string says why that failed."""
    command = [sys.executable, "-m", "benchmarks.memory", system, model, workload, str(threads)]
    done = subprocess.run(  # noqa: S603 - this module
        command,
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT_SECONDS,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"exit status {done.returncode}: {last[:200]}"
    peak, loaded = json.loads(done.stdout.strip().splitlines()[-1])
    return peak, loaded


def main() -> None:
    """Be the child."""
    system, model_name, workload, threads = sys.argv[1:]
    from benchmarks import machine

    machine.limit_threads(int(threads))
    from benchmarks import models, systems, workloads
    from benchmarks.reference import tokenizer_of

    model = models.locate(model_name)
    requests = workloads.parse(workload).requests(tokenizer_of(model))
    loaded_system = systems.load(system, model)
    loaded = machine.peak_memory()
    loaded_system.score(requests)
    print(json.dumps([machine.peak_memory(), loaded]))


if __name__ == "__main__":
    main()
