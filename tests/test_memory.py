"""Figures about memory are those of the process that holds the model."""

from __future__ import annotations

import psutil
import pytest
from faults.pool_tools import pids
from light_model import write

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.executors import memory
from flag_rerank_integrations.executors.memory import device_stats

MEBIBYTE = 1 << 20
LONG = [("panda", "giant panda bear in China " * 40)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("light") / "model", widths=(32, 16_384))


def test_each_worker_tells_its_own_memory(model: str) -> None:
    ballast = bytearray(600 * MEBIBYTE)
    ballast[::1024] = b"x" * (600 * 1024)  # a page is taken when it is written to
    assert device_stats(Device("cpu")).peak_memory > 600 * MEBIBYTE  # type: ignore[operator]
    with Reranker(model, device="cpu:2") as pool:
        before = pool.stats().devices
        for pid, device in zip(pids(pool), before, strict=True):
            resident = psutil.Process(pid).memory_info().rss
            assert device.name == "cpu"
            assert device.used_memory == pytest.approx(resident, abs=16 * MEBIBYTE)
            # Not this process's peak, which getrusage would hand down to it.
            assert device.used_memory <= device.peak_memory < 400 * MEBIBYTE  # type: ignore[operator]
            assert 0 < device.free_memory <= psutil.virtual_memory().total  # type: ignore[operator]
        pool.score(LONG)
        grown = [
            after.peak_memory - earlier.peak_memory  # type: ignore[operator]
            for after, earlier in zip(pool.stats().devices, before, strict=True)
        ]
    assert min(grown) == 0  # had nothing to do
    assert max(grown) > 8 * MEBIBYTE  # 200 tokens of 16,384 floats


def test_the_model_in_this_process(model: str) -> None:
    with Reranker(model, device="cpu") as reranker:
        reranker.score(LONG)
        (device,) = reranker.stats().devices
        resident = psutil.Process().memory_info().rss
    assert device.used_memory == pytest.approx(resident, abs=16 * MEBIBYTE)
    assert device.peak_memory >= device.used_memory  # type: ignore[operator]


def test_a_system_without_proc_tells_the_peak_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = device_stats(Device("cpu")).peak_memory
    monkeypatch.setattr(memory, "_STATUS_FILE", "/no/such/file")
    found = device_stats(Device("cpu"))
    assert found.used_memory is None
    assert found.peak_memory >= peak  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["cuda", "mps", "npu", "xpu"])
def test_a_device_that_cannot_be_asked_tells_nothing(kind: str) -> None:
    """No machine has a hundred of them."""
    assert device_stats(Device(kind, 99)) == memory.DeviceStats(f"{kind}:99")
