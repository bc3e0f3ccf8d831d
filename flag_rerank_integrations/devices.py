"""Device specs to devices: what exists here, what is free, which one "auto" takes.

Nothing in this module allocates memory or creates a context on any device: free memory
comes from the driver's own tool, because asking CUDA for it would put a few hundred
megabytes on the very card that the caller wants left alone.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flag_rerank_integrations.errors import ConfigError, DeviceError
from flag_rerank_integrations.monitoring import cuda, nvml

__all__ = ["Device", "DeviceInfo", "available_cores", "choose", "explain_auto", "host_memory", "inventory", "resolve"]

logger: Final = logging.getLogger(__name__)

_ACCELERATORS: Final = ("cuda", "xpu", "npu", "mps")
_SPEC: Final = re.compile(r"(?P<kind>[a-z]+)(?::(?P<index>\d{1,3}))?")
_QUERY_SECONDS: Final = 10
_MEBIBYTE: Final = 1 << 20
_UNKNOWN: Final = ["", "", "", "", ""]
_QUOTA_FILE: Final = "/sys/fs/cgroup/cpu.max"


@dataclass(frozen=True, slots=True, order=True)
class Device:
    """One device a model can be put on; `str()` gives torch's name of it."""

    kind: str
    index: int | None = None

    def __str__(self) -> str:
        """Return the name torch uses, such as "cuda:1" or "cpu"."""
        return self.kind if self.index is None else f"{self.kind}:{self.index}"


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What is known of a device without touching it; memory in bytes, None where unknown."""

    device: Device
    name: str
    free_memory: int | None = None
    total_memory: int | None = None


CPU: Final = Device("cpu")


def inventory() -> tuple[DeviceInfo, ...]:
    """List the devices of this machine that this process may use, accelerators first.

    The CPU is always there, and comes last. Free memory of CUDA devices is what the driver tells: by NVML
    where nvidia-ml-py is installed, else by `nvidia-smi`.
    """
    import torch

    found: list[DeviceInfo] = []
    for kind in _ACCELERATORS:
        module = getattr(torch, kind, None)
        if kind == "mps":
            if torch.backends.mps.is_available():
                found.append(DeviceInfo(Device("mps"), "Apple GPU"))
        elif module is not None and module.is_available():
            memory = _cuda_memory() if kind == "cuda" else {}
            found += [_accelerator(kind, index, memory) for index in range(module.device_count())]
    return (*found, DeviceInfo(CPU, _cpu_name(), *host_memory()))


def resolve(spec: str | Sequence[str]) -> tuple[Device, ...]:
    """Turn a device spec into the devices to use.

    Args:
        spec: One device: "cpu", "cuda:1", "cuda" (the one with the most free memory), "mps",
            "npu:0", "xpu:0", or "auto" (of all accelerators the one with the most free memory;
            the CPU, with a logged line, where there is none). Several: a list of such names,
            "all" (every accelerator), "auto:2" (the two with the most free memory), "cpu:2"
            (two workers that share the cores).

    Raises:
        ConfigError: The spec cannot be read.
        DeviceError: A device does not exist, or is named twice; the message lists the ones that do.
    """
    names = [spec] if isinstance(spec, str) else list(spec)
    if not names:
        msg = "device is an empty list: name at least one device."
        raise ConfigError(msg)
    devices = [device for name in names for device in _resolve_one(name)]
    twice = {str(device) for device in devices if device.kind != "cpu" and devices.count(device) > 1}
    if twice:
        msg = f"device={spec!r} names {', '.join(sorted(twice))} more than once."
        raise DeviceError(msg)
    return tuple(devices)


def _resolve_one(name: str) -> list[Device]:
    """Return the devices that one name stands for."""
    match = _SPEC.fullmatch(name.strip().lower())
    if match is not None and match["kind"] == "ray":
        msg = f"device={name!r} is no device of this machine: 'ray' or 'ray:4' stands alone and is for a Reranker."
        raise ConfigError(msg)
    if match is None or match["kind"] not in ("all", "auto", "cpu", *_ACCELERATORS):
        msg = (
            f"device={name!r} is no device. Examples: 'auto', 'cpu', 'cuda:1', 'mps', 'npu:0', 'xpu:0'; "
            f"several: ['cuda:0', 'cuda:1'], 'all', 'auto:2', 'cpu:2'."
        )
        raise ConfigError(msg)
    kind, count = match["kind"], None if match["index"] is None else int(match["index"])
    if (kind in ("cpu", "auto") and count == 0) or (kind == "all" and count is not None):
        msg = f"device={name!r} asks for no device; the number behind 'cpu' and 'auto' is how many. Say {kind!r}."
        raise ConfigError(msg)
    if kind == "cpu":
        return [CPU] * (count or 1)
    devices = inventory()
    if kind in ("all", "auto"):
        return [info.device for info in _freest(kind, count, devices)]
    return [_existing(kind, match["index"], devices)]


def _freest(kind: str, count: int | None, devices: Sequence[DeviceInfo]) -> list[DeviceInfo]:
    """Return every accelerator for "all", or as many as "auto" asks for, most free memory first."""
    accelerators = sorted((info for info in devices if info.device.kind != "cpu"), key=_by_free_memory)
    if not accelerators:
        return [choose(devices)]
    if kind == "all":
        return sorted(accelerators, key=lambda info: info.device)
    if (count or 1) > len(accelerators):
        msg = f"There are not {count} accelerators here; there is {', '.join(str(i.device) for i in devices)}."
        raise DeviceError(msg)
    return accelerators[: count or 1]


def choose(devices: Sequence[DeviceInfo]) -> DeviceInfo:
    """Return the accelerator with the most free memory; the CPU, with a logged line, if none.

    Args:
        devices: As `inventory` lists them.
    """
    accelerators = [info for info in devices if info.device.kind != "cpu"]
    if not accelerators:
        logger.info("No accelerator was found: scoring on the CPU.")
        return next(info for info in devices if info.device.kind == "cpu")
    return min(accelerators, key=_by_free_memory)


def _by_free_memory(info: DeviceInfo) -> int:
    """Sort by free memory, most first; where it is unknown, last; among equals in the given order."""
    return 1 if info.free_memory is None else -info.free_memory


def explain_auto(devices: Sequence[DeviceInfo]) -> str:
    """Say in one line which of these devices "auto" takes, and why."""
    chosen = choose(devices)
    accelerators = [info for info in devices if info.device.kind != "cpu"]
    if not accelerators:
        return "auto takes cpu: there is no accelerator here"
    if chosen.free_memory is None:
        return f"auto takes {chosen.device}: the driver does not tell free memory, so it is the first accelerator"
    return f"auto takes {chosen.device}: it has the most free memory ({chosen.free_memory / (1 << 30):.1f} GiB)"


def _existing(kind: str, index: str | None, devices: Sequence[DeviceInfo]) -> Device:
    """Return the device asked for, or refuse it with a list of those that exist."""
    same_kind = [info for info in devices if info.device.kind == kind]
    if index is None and same_kind:
        return choose(same_kind).device
    for info in same_kind:
        if info.device.index == int(index or 0) or (info.device.index is None and index == "0"):
            return info.device
    wanted = kind if index is None else f"{kind}:{index}"
    msg = f"There is no device {wanted!r} here; there is {', '.join(str(info.device) for info in devices)}."
    raise DeviceError(msg)


def _accelerator(kind: str, index: int, memory: dict[int, tuple[str, int, int]]) -> DeviceInfo:
    name, free, total = memory.get(index, (kind.upper(), None, None))
    return DeviceInfo(Device(kind, index), name, free, total)


def _cuda_memory() -> dict[int, tuple[str, int, int]]:
    """Return name, free and total bytes by CUDA index, as the driver tells; {} where it does not."""
    uuids = cuda.visible_uuids()
    readings = ((index, nvml.reading(name)) for index, name in enumerate(uuids))
    known = {index: (gpu.name, gpu.free, gpu.total) for index, gpu in readings if gpu is not None}
    if known:
        return {
            i: (name, free, total) for i, (name, free, total) in known.items() if not (free is None or total is None)
        }
    # Without its word, CUDA is taken to count as the driver's own tool does.
    mask = ",".join(f"GPU-{name}" for name in uuids) or os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible_memory(_nvml_table() or _nvidia_smi_table(), mask)


def _nvml_table() -> str:
    """Write what NVML tells in nvidia-smi's form; "" where there is none. It needs no process of its own."""

    def shown(size: int | None) -> str:
        return "[N/A]" if size is None else str(size // _MEBIBYTE)

    rows = enumerate(nvml.readings())
    return "\n".join(f"{i}, {gpu.uuid}, {gpu.name}, {shown(gpu.free)}, {shown(gpu.total)}" for i, gpu in rows)


def _nvidia_smi_table() -> str:
    """Return what nvidia-smi tells; "" where it does not."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    command = [tool, "--query-gpu=index,uuid,name,memory.free,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True)  # noqa: S603 - a fixed command
    except (OSError, subprocess.SubprocessError) as error:
        logger.info("nvidia-smi did not answer (%s): free memory of CUDA devices is unknown.", type(error).__name__)
        return ""
    return answer.stdout


def visible_memory(table: str, mask: str | None) -> dict[int, tuple[str, int, int]]:
    """Map nvidia-smi's rows to the indices this process sees.

    Args:
        table: Lines of "index, uuid, name, free MiB, total MiB".
        mask: CUDA_VISIBLE_DEVICES: indices or (beginnings of) UUIDs; None shows all.

    Returns:
        Name, free bytes and total bytes by CUDA index.
    """
    rows = [[cell.strip() for cell in line.split(",")] for line in table.splitlines() if line.count(",") == 4]  # noqa: PLR2004 - five columns
    if mask is not None:
        wanted = [item.strip() for item in mask.split(",")]
        # One that is not among the rows, such as a part of a GPU (MIG), keeps its place.
        rows = [
            next((row for row in rows if row[0] == item or (item and row[1].startswith(item))), _UNKNOWN)
            for item in wanted
        ]
    known = ((index, row) for index, row in enumerate(rows) if row[3].isdigit() and row[4].isdigit())
    return {index: (row[2], int(row[3]) * _MEBIBYTE, int(row[4]) * _MEBIBYTE) for index, row in known}


def host_memory() -> tuple[int | None, int | None]:
    """Return available and total bytes of this machine, or None where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123 - a kernel file, not a path of ours
            sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file}
    except (OSError, ValueError, IndexError):
        return None, None
    return sizes.get("MemAvailable"), sizes.get("MemTotal")


def available_cores() -> int:
    """Return how many cores this process may use: its affinity, and its container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path(_QUOTA_FILE).read_text(encoding="ascii").split()
        return max(1, min(count, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return count


def _cpu_name() -> str:
    return f"CPU, {available_cores()} cores"
