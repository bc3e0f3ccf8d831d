"""GPUs that differ are counted by CUDA in one order and by the driver's tools in another: names decide."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from nvml_driver import Cuda, Driver, Gpu, install

from flag_rerank_integrations import RerankConfig
from flag_rerank_integrations.devices import Device, _cuda_memory, inventory, resolve
from flag_rerank_integrations.executors.worker_process import worker_processes
from flag_rerank_integrations.monitoring import cuda, nvml

GIB = 1 << 30
SLOW, FAST, PART = (
    f"{kind}-{digit * 8}-0000-4000-8000-{digit * 12}" for kind, digit in zip(("GPU", "GPU", "MIG"), "abc", strict=True)
)


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    """A slow GPU on the first slot, with much free memory, and a fast one, which CUDA counts first."""
    gpus = [
        Gpu(SLOW, free=20 * GIB, total=24 * GIB, name="NVIDIA L4"),
        Gpu(FAST, free=10 * GIB, total=80 * GIB, name="NVIDIA H100"),
        Gpu(PART, free=5 * GIB, total=10 * GIB, busy=None, name="NVIDIA H100 MIG 1g.10gb"),
    ]
    made = Cuda([FAST, SLOW])
    install(monkeypatch, Driver(gpus), made)
    for name in ("CUDA_VISIBLE_DEVICES", "PYTORCH_NVML_BASED_CUDA_CHECK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(made.names))
    yield made
    nvml._started.cache_clear()


def test_names_and_memory_are_those_of_cudas_numbers(numbers: Cuda) -> None:
    assert _cuda_memory() == {0: ("NVIDIA H100", 10 * GIB, 80 * GIB), 1: ("NVIDIA L4", 20 * GIB, 24 * GIB)}
    assert [info.name for info in inventory()[:2]] == ["NVIDIA H100", "NVIDIA L4"]


def test_auto_takes_the_one_that_has_the_memory(numbers: Cuda) -> None:
    assert resolve("auto") == (Device("cuda", 1),)
    numbers.names.reverse()  # as with CUDA_DEVICE_ORDER=PCI_BUS_ID
    assert resolve("auto") == (Device("cuda", 0),)


def test_a_part_of_a_gpu_has_its_own_memory(numbers: Cuda) -> None:
    numbers.names = [PART]
    assert _cuda_memory() == {0: ("NVIDIA H100 MIG 1g.10gb", 5 * GIB, 10 * GIB)}


def test_the_drivers_tool_is_read_by_names_too(numbers: Cuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, Driver([], loaded=False), numbers)
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        f"#!/bin/sh\necho '0, {SLOW}, NVIDIA L4, 20480, 24576'\necho '1, {FAST}, NVIDIA H100, 10240, 81920'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert {index: name for index, (name, _, _) in _cuda_memory().items()} == {0: "NVIDIA H100", 1: "NVIDIA L4"}


def test_workers_are_given_their_gpu_by_name(numbers: Cuda) -> None:
    devices = [Device("cuda", 0), Device("cuda", 1), Device("cpu")]
    workers = worker_processes(RerankConfig(), devices, on_exit=lambda: None)
    assert [worker._environment["CUDA_VISIBLE_DEVICES"] for worker in workers] == [FAST, SLOW, ""]


def test_where_cuda_does_not_tell_its_numbers_are_taken_as_they_are(
    numbers: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers.error = 100  # no device
    assert cuda.visible_uuids() == ()
    assert cuda.driver_name(0) is None
    assert {index: name for index, (name, _, _) in _cuda_memory().items()} == {0: "NVIDIA L4", 1: "NVIDIA H100"}


def test_cuda_is_left_alone_where_torch_leaves_it_alone(numbers: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    assert cuda.visible_uuids() == ()
