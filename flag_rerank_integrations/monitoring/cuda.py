"""CUDA's own numbers of this process's GPUs, asked of the driver, so that no context is made.

By default CUDA counts the fastest first, and NVML and nvidia-smi by the PCI bus: where GPUs differ, one number can be
two devices. Names are the same everywhere.
"""

from __future__ import annotations

import ctypes
import os
import sys
import uuid
from functools import cache
from typing import Any, Final

from flag_rerank_integrations.monitoring import nvml

__all__ = ["driver_name", "visible_uuids"]

_LIBRARY: Final = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_UUID_BYTES: Final = 16


def visible_uuids() -> tuple[str, ...]:
    """Return the UUIDs of this process's GPUs and parts of GPUs (MIG), in CUDA's order; none where it does not tell.

    They have no prefix, as torch writes them. Masks and CUDA_DEVICE_ORDER are CUDA's own to apply.
    """
    if os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK") == "1":
        return ()  # torch leaves CUDA alone then, for the sake of processes that will be forked
    driver = _library()
    count = ctypes.c_int()
    if driver is None or driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    found = [_uuid(driver, index) for index in range(count.value)]
    return tuple(name for name in found if name is not None) if None not in found else ()


def driver_name(index: int) -> str | None:
    """Return the name, "GPU-…" or "MIG-…", of the device with this number of CUDA's; None where it is not known."""
    uuids = visible_uuids()
    reading = nvml.reading(uuids[index]) if index < len(uuids) else None
    return None if reading is None else reading.uuid or None


def _uuid(driver: Any, index: int) -> str | None:  # noqa: ANN401 - a C library
    ask = getattr(driver, "cuDeviceGetUuid_v2", None)  # drivers since CUDA 11.4 have it; the older one knows no MIG
    device, raw = ctypes.c_int(), ctypes.create_string_buffer(_UUID_BYTES)
    if ask is None or driver.cuDeviceGet(ctypes.byref(device), index) or ask(raw, device):
        return None
    return str(uuid.UUID(bytes=raw.raw))


@cache
def _library() -> Any:  # noqa: ANN401 - a C library, or None
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
