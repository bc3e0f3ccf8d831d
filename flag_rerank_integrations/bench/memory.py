"""The most memory that scoring took: of this process and of its workers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.executors.memory import device_stats
from flag_rerank_integrations.results import DeviceStats

__all__ = ["device_peak", "host_peak"]

_CPU: Final = "cpu"
_KIBIBYTE: Final = 1024
_PROCESSES: Final = Path("/proc")


def host_peak(devices: Sequence[DeviceStats], *, ray: bool) -> int | None:
    """Return the largest resident sets of this process and its workers, added up.

    Pages that they share, such as those of one weights file mapped by all of them, count in each.

    Args:
        devices: As `stats()` tells them; a device of several is in a worker of its own.
        ray: Whether the workers are Ray's.

    Returns:
        Bytes; None where the system does not tell, or the workers are out of sight.
    """
    own = device_stats(Device(_CPU)).peak_memory
    if len(devices) == 1 and not ray:
        return own
    if all(device.name == _CPU for device in devices):
        peaks: list[int | None] = [own, *(device.peak_memory for device in devices)]
    else:
        # A worker tells its accelerator's memory; its own is read from the system's table of processes.
        peaks = [own, *(_children() if not ray and _PROCESSES.is_dir() else [None])]
    known = [peak for peak in peaks if peak is not None]
    return sum(known) if len(known) == len(peaks) else None


def device_peak(devices: Sequence[DeviceStats]) -> int | None:
    """Return the most that one of the accelerators held, by torch's count; None where there is none, or none tells."""
    return max((d.peak_memory for d in devices if d.name != _CPU and d.peak_memory is not None), default=None)


def _children() -> Iterator[int]:
    """Yield the largest resident set of each child of this process."""
    for status in _PROCESSES.glob("[0-9]*/status"):
        try:
            lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:  # it has just ended
            continue
        fields = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
        if fields.get("PPid") == [str(os.getpid())] and fields.get("VmHWM"):
            yield int(fields["VmHWM"][0]) * _KIBIBYTE
