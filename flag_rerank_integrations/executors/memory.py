"""How much memory the device of a loaded model has free, and how much the model takes of it."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, Final

from flag_rerank_integrations.devices import Device, host_memory
from flag_rerank_integrations.monitoring import nvml
from flag_rerank_integrations.results import DeviceStats

__all__ = ["as_of_now", "device_stats"]

_STATUS_FILE: Final = "/proc/self/status"
_KIBIBYTE: Final = 1024


def device_stats(device: Device) -> DeviceStats:
    """Read the memory of a device that this process has a model on; see `DeviceStats` for what each figure is.

    Nothing is imported and no context is made for it: a device that torch has not touched here tells nothing.
    """
    if device.kind == "cpu":
        used, peak = _own_memory()
        free, total = host_memory()
        return DeviceStats("cpu", free_memory=free, used_memory=used, peak_memory=peak, total_memory=total)
    torch: Any = sys.modules.get("torch")
    module: Any = getattr(torch, device.kind, None)
    try:
        free, total = module.mem_get_info(device.index)
        peak = module.max_memory_allocated(device.index)
        uuid = _uuid(module, device)
    except (AttributeError, AssertionError, NotImplementedError, RuntimeError):
        # No torch, no such question on this kind of device, or a driver that does not answer.
        return DeviceStats(str(device))
    stats = DeviceStats(
        str(device), free_memory=free, used_memory=total - free, peak_memory=peak, total_memory=total, uuid=uuid
    )
    return as_of_now(stats)


def as_of_now(stats: DeviceStats) -> DeviceStats:
    """Return a device's figures with what the driver says now, where it can be asked from this process.

    The name by which it is asked is the driver's own: an index would depend on masks, on the order that
    CUDA was told to count in, and on the process. A device of another machine is not found, and stays as it was.
    """
    reading = None if stats.uuid is None else nvml.reading(stats.uuid)
    if reading is None:
        return stats
    now = {"free_memory": reading.free, "used_memory": reading.used, "total_memory": reading.total}
    known: dict[str, Any] = {name: value for name, value in now.items() if value is not None}
    return replace(stats, **known, uuid=reading.uuid or stats.uuid, utilization=reading.utilization)


def _uuid(module: Any, device: Device) -> str | None:  # noqa: ANN401 - torch's module for the kind of device
    """Return the driver's name of a CUDA device that this process has a context on."""
    if device.kind != "cuda" or not module.is_initialized():
        return None
    return str(getattr(module.get_device_properties(device.index), "uuid", "")) or None


def _own_memory() -> tuple[int | None, int | None]:
    """Return this process's resident bytes now and at most, None where the system does not tell.

    Linux's getrusage would give the parent's peak where that was larger: it is handed down to a new process.
    """
    try:
        with open(_STATUS_FILE, encoding="ascii", errors="replace") as file:  # noqa: PTH123 - a kernel file
            sizes = {name: line.split()[0] for name, _, line in (row.partition(":") for row in file) if line.split()}
        return int(sizes["VmRSS"]) * _KIBIBYTE, int(sizes["VmHWM"]) * _KIBIBYTE
    except (OSError, KeyError, ValueError):
        return None, _peak_from_getrusage()


def _peak_from_getrusage() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * _KIBIBYTE
