"""What the driver's library is to nvidia-ml-py: C functions that fill structures and return codes.

The binding is the real one; only what lies below it, libnvidia-ml.so, is made here, and libcuda.so beside it.
"""

from __future__ import annotations

import ctypes
import uuid
from dataclasses import dataclass
from typing import Any

import pynvml
import pytest

from flag_rerank_integrations.monitoring import cuda, nvml

OK, NOT_SUPPORTED, NOT_FOUND, DRIVER_NOT_LOADED = 0, 3, 6, 9


@dataclass
class Gpu:
    """One GPU of the machine; sizes in bytes, the rate in percent, None where the driver does not tell."""

    uuid: str
    free: int = 1 << 30
    total: int = 4 << 30
    busy: int | None = 25
    name: str = "NVIDIA H200"


class Driver:
    """The library."""

    def __init__(self, gpus: list[Gpu], *, loaded: bool = True) -> None:
        self.gpus, self.loaded, self.asked = gpus, loaded, 0

    def nvmlInitWithFlags(self, _flags: int) -> int:  # noqa: N802 - the library's names, here and below
        return OK if self.loaded else DRIVER_NOT_LOADED

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = sum(gpu.uuid.startswith("GPU-") for gpu in self.gpus)  # parts of GPUs are not counted
        return OK

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:  # noqa: N802
        return self._give(handle, index.value)

    def nvmlDeviceGetHandleByUUID(self, uuid: Any, handle: Any) -> int:  # noqa: N802
        names = [gpu.uuid for gpu in self.gpus]
        asked = uuid.value.decode()
        return self._give(handle, names.index(asked)) if asked in names else NOT_FOUND

    def nvmlDeviceGetUUID(self, handle: Any, text: Any, _size: Any) -> int:  # noqa: N802
        text.value = self._of(handle).uuid.encode()
        return OK

    def nvmlDeviceGetName(self, handle: Any, text: Any, _size: Any) -> int:  # noqa: N802
        text.value = self._of(handle).name.encode()
        return OK

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:  # noqa: N802
        gpu = self._of(handle)
        memory._obj.free, memory._obj.total, memory._obj.used = gpu.free, gpu.total, gpu.total - gpu.free
        return OK

    def nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> int:  # noqa: N802
        busy = self._of(handle).busy
        if busy is None:
            return NOT_SUPPORTED
        rates._obj.gpu = busy
        return OK

    def _give(self, handle: Any, index: int) -> int:
        # A handle is an opaque address; here one more than the GPU's number.
        ctypes.memmove(handle, ctypes.byref(ctypes.c_void_p(index + 1)), ctypes.sizeof(ctypes.c_void_p))
        return OK

    def _of(self, handle: Any) -> Gpu:
        self.asked += 1
        return self.gpus[ctypes.cast(handle, ctypes.c_void_p).value - 1]  # type: ignore[operator]


class Cuda:
    """CUDA's library: the same GPUs in an order of its own."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.error = names, OK

    def cuInit(self, _flags: int) -> int:  # noqa: N802
        return self.error

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.names)
        return OK

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        device._obj.value = ordinal
        return OK

    def cuDeviceGetUuid_v2(self, raw: Any, device: Any) -> int:  # noqa: N802
        raw.raw = uuid.UUID(self.names[device.value].partition("-")[2]).bytes
        return OK


def install(monkeypatch: pytest.MonkeyPatch, driver: Driver | None, numbers: Cuda | None = None) -> None:
    """Put a driver below the binding for one test, or none; `forget` belongs behind it."""
    monkeypatch.setattr(cuda, "_library", lambda: numbers)
    monkeypatch.setattr(pynvml, "nvmlLib", driver)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    nvml._started.cache_clear()
