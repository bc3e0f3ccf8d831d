"""Peak memory of one system in a process of its own: `python -m benchmarks.memory SYSTEM MODEL WORKLOAD`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

__all__ = ["Peak", "peak_of"]

_LIMIT_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes of one process."""

    total: int
    """Most held at any time."""
    loaded: int
    """Held when the model was loaded."""
    scoring: int
    """Most held while scoring, beyond `loaded`."""


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
    return Peak(**json.loads(done.stdout.strip().splitlines()[-1]))


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
    at_load, loaded = machine.peak_memory(), machine.held_memory()
    machine.forget_peak()
    loaded_system.score(requests)
    peak = machine.peak_memory()
    print(json.dumps(asdict(Peak(max(at_load, peak), loaded, max(0, peak - loaded)))))


if __name__ == "__main__":
    main()
