"""Memory and utilisation of GPUs, by the driver's own names, whatever masks are in force."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from nvml_driver import Driver, Gpu, install

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.devices import Device, _cuda_memory
from flag_rerank_integrations.executors.memory import as_of_now, device_stats
from flag_rerank_integrations.monitoring import nvml
from flag_rerank_integrations.results import DeviceStats

GIB = 1 << 30


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """Three GPUs and a part of one; nothing of the machine's own driver is asked."""
    gpus = [
        Gpu("GPU-aaaa1111", free=1 * GIB, busy=100),
        Gpu("GPU-bbbb2222", free=2 * GIB, busy=50),
        Gpu("GPU-cccc3333", free=3 * GIB, busy=0, name="NVIDIA A100"),
        Gpu("MIG-dddd4444", free=4 * GIB, busy=None),
    ]
    found = Driver(gpus)
    install(monkeypatch, found)
    yield found
    nvml._started.cache_clear()


@pytest.fixture
def torch_device(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A torch that has a context on one CUDA device."""
    properties = SimpleNamespace(uuid="bbbb2222")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _index: (7 * GIB, 8 * GIB))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _index: 5)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: properties)
    return properties


def test_a_device_is_read_by_its_own_name(driver: Driver) -> None:
    assert nvml.reading("GPU-bbbb2222") == nvml.GpuReading(
        "GPU-bbbb2222", "NVIDIA H200", free=2 * GIB, used=2 * GIB, total=4 * GIB, utilization=0.5
    )
    assert nvml.reading("bbbb2222") == nvml.reading("GPU-bbbb2222")  # as torch writes it
    part = nvml.reading("dddd4444")
    assert part is not None
    assert (part.uuid, part.free, part.utilization) == ("MIG-dddd4444", 4 * GIB, None)
    assert nvml.reading("GPU-of-another-machine") is None


@pytest.mark.parametrize("index", [0, 3])
def test_the_process_that_has_the_model_finds_its_device_whatever_its_number(
    driver: Driver, torch_device: SimpleNamespace, index: int
) -> None:
    """Masks and the order that CUDA counts in change a device's number, and never its name."""
    assert device_stats(Device("cuda", index)) == DeviceStats(
        f"cuda:{index}",
        free_memory=2 * GIB,
        used_memory=2 * GIB,
        peak_memory=5,
        utilization=0.5,
        total_memory=4 * GIB,
        uuid="GPU-bbbb2222",
    )


def test_torch_alone_tells_what_it_did_before(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, torch_device: SimpleNamespace
) -> None:
    torch_device.uuid = "unknown"
    known = DeviceStats(
        "cuda:0", free_memory=7 * GIB, used_memory=GIB, peak_memory=5, total_memory=8 * GIB, uuid="unknown"
    )
    assert device_stats(Device("cuda", 0)) == known
    del torch_device.uuid
    assert device_stats(Device("cuda", 0)).uuid is None
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert device_stats(Device("cuda", 0)).uuid is None
    assert driver.asked == 0


def test_what_a_worker_told_is_brought_up_to_date(driver: Driver) -> None:
    told = DeviceStats("cuda:1", free_memory=1, used_memory=2, peak_memory=3, utilization=1.0, uuid="GPU-cccc3333")
    now = as_of_now(told)
    assert (now.free_memory, now.used_memory, now.total_memory) == (3 * GIB, GIB, 4 * GIB)
    assert (now.peak_memory, now.utilization) == (3, 0.0)
    driver.gpus[2].busy = 75
    assert as_of_now(told).utilization == 0.75
    elsewhere = DeviceStats("ray:0 (cuda:0 on 10.0.0.7)", free_memory=1, utilization=0.9, uuid="GPU-eeee")
    assert as_of_now(elsewhere) is elsewhere


def test_the_pool_asks_the_driver_at_every_look(light: str, driver: Driver) -> None:
    with Reranker(light, device="cpu:2") as pool:
        pool.score([("panda", "bear")])
        worker = pool._executor._pool.dispatchers[1].worker  # type: ignore[union-attr]
        told = DeviceStats("cuda:0", peak_memory=3, uuid="GPU-aaaa1111")
        worker.stats = replace(worker.stats, devices=(told,))
        assert pool.stats().devices[1].utilization == 1.0
        driver.gpus[0].busy = 10
        assert pool.stats().devices[1].utilization == 0.1
        assert pool.stats().devices[1].name == "cpu"  # by the name that this process has for it


@pytest.mark.parametrize(
    "mask, free",
    [
        (None, [1, 2, 3]),
        ("2,0", [3, 1]),
        ("GPU-cccc,GPU-aaaa1111", [3, 1]),
        ("MIG-dddd4444", []),
        ("", []),
        ("9", []),
    ],
)
def test_masks_say_which_devices_count(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, mask: str | None, free: list[int]
) -> None:
    if mask is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    assert {index: size // GIB for index, (_, size, _) in _cuda_memory().items()} == dict(enumerate(free))


def test_without_a_driver_nothing_is_known_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver([Gpu("GPU-aaaa1111")], loaded=False))
    assert nvml.readings() == []
    assert nvml.reading("GPU-aaaa1111") is None
    nvml._started.cache_clear()


def test_asking_the_driver_needs_no_torch() -> None:
    code = (
        "import sys; from flag_rerank_integrations.monitoring import nvml; nvml.readings(); nvml.reading('GPU-x'); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
