"""NVIDIA's management library: memory and utilisation of GPUs, asked of the driver, so that no CUDA context is made.

Needs nvidia-ml-py (the extra `monitoring`) and a driver. Where either is missing nothing is known, and nothing fails.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

__all__ = ["GpuReading", "reading", "readings"]

logger: Final = logging.getLogger(__name__)

_PERCENT: Final = 100


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU, or a part of one (MIG), now; memory in bytes, None where the driver does not tell."""

    uuid: str
    name: str
    free: int | None
    used: int | None
    total: int | None
    utilization: float | None
    """Part of the driver's last sample period in which anything ran, 0 to 1."""


def reading(uuid: str) -> GpuReading | None:
    """Read one GPU of this machine; None where it is not here, or there is no NVML.

    Args:
        uuid: As the driver writes it, "GPU-…" or "MIG-…"; without the prefix, as torch writes it, both are tried.
    """
    api = _started(os.getpid())
    if api is None:
        return None
    names = [uuid] if uuid.startswith(("GPU-", "MIG-")) else [f"GPU-{uuid}", f"MIG-{uuid}"]
    for name in names:
        handle = _asked(api, api.nvmlDeviceGetHandleByUUID, name)
        if handle is not None:
            return _read(api, handle)
    return None


def readings() -> list[GpuReading]:
    """Read every GPU of this machine, in the driver's order, whatever this process may use of them."""
    api = _started(os.getpid())
    if api is None:
        return []
    count = _asked(api, api.nvmlDeviceGetCount) or 0
    handles = [_asked(api, api.nvmlDeviceGetHandleByIndex, index) for index in range(count)]
    # One that cannot be asked keeps its place: masks count it.
    return [_read(api, handle) if handle is not None else _UNKNOWN for handle in handles]


_UNKNOWN: Final = GpuReading("", "", None, None, None, None)


@cache
def _started(_process: int) -> Any:  # noqa: ANN401 - the module, or None
    """Return NVML's binding, ready to be asked in this process; None where there is none."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        logger.debug("NVML tells nothing here: %s", error)
        return None
    return pynvml


def _read(api: Any, handle: Any) -> GpuReading:  # noqa: ANN401 - the binding; a pointer of its own
    memory = _asked(api, api.nvmlDeviceGetMemoryInfo, handle)
    rates = _asked(api, api.nvmlDeviceGetUtilizationRates, handle)  # a part of a GPU has none
    return GpuReading(
        uuid=_asked(api, api.nvmlDeviceGetUUID, handle) or "",
        name=_asked(api, api.nvmlDeviceGetName, handle) or "",
        free=None if memory is None else int(memory.free),
        used=None if memory is None else int(memory.used),
        total=None if memory is None else int(memory.total),
        utilization=None if rates is None else rates.gpu / _PERCENT,
    )


def _asked(api: Any, question: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401 - what the driver says
    """Ask the driver; None where it does not tell."""
    try:
        return question(*arguments)
    except api.NVMLError as error:
        logger.debug("NVML does not tell (%s): %s", question.__name__, error)
        return None
