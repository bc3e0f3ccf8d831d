"""The machine: how many threads are used, and what to say of it in a result."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import platform
from pathlib import Path

__all__ = ["describe", "forget_peak", "held_memory", "limit_instructions", "limit_threads", "peak_memory"]


def limit_threads(threads: int | None) -> int:
    """Hold this process to so many threads and CPUs; call it before torch is imported.

    Args:
        threads: None is all CPUs that the process may use.

    Returns:
        The number in force.
    """
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    count = min(threads or len(usable), len(usable))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, usable[:count])  # some systems count CPUs and do not ask torch
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(count)))
    # No hub is asked, and no peer draws progress bars into the table.
    os.environ.update({"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "true"})
    import torch

    torch.set_num_threads(count)
    return count


def limit_instructions() -> None:
    """Let torch and its libraries use AVX2 and nothing wider, as on a CPU without it; before torch is imported."""
    os.environ.update(MKL_ENABLE_INSTRUCTIONS="AVX2", ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2")


def describe(threads: int) -> dict[str, str | int]:
    """Return what a reader needs to judge a result, and nothing that names the machine."""
    memory = _field("/proc/meminfo", "MemTotal")
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "threads": threads,
        "memory": f"{int(memory.split()[0]) / 2**20:.0f} GiB" if memory else "unknown",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "date": dt.datetime.now(dt.timezone.utc).date().isoformat(),
    }


def peak_memory() -> int:
    """Return the most memory this process has held so far, in bytes.

    The kernel's own figure for this program comes first: `ru_maxrss` of a child that was started
    from a large process begins with that process's peak.
    """
    peak = _field("/proc/self/status", "VmHWM")
    if peak:
        return int(peak.split()[0]) * 1024
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if platform.system() == "Darwin" else used * 1024


def held_memory() -> int:
    """Return the memory this process holds now, in bytes; 0 where the kernel does not tell."""
    held = _field("/proc/self/status", "VmRSS")
    return int(held.split()[0]) * 1024 if held else 0


def forget_peak() -> None:
    """Let `peak_memory` count from now on, where the kernel can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _field(path: str, name: str) -> str:
    """Return a field of one of the kernel's "name: value" files, or "" where there is none."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
