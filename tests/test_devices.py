from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.devices import (
    Device,
    DeviceInfo,
    _freest,
    choose,
    explain_auto,
    inventory,
    resolve,
    visible_memory,
)
from flag_rerank_integrations.errors import ConfigError, DeviceError
from flag_rerank_integrations.executors.worker_process import child_environment

GIB = 1 << 30
TABLE = """\
0, GPU-aaaa1111, NVIDIA H200, 1024, 143771
1, GPU-bbbb2222, NVIDIA H200, 90000, 143771
2, GPU-cccc3333, NVIDIA A100, 70000, 81920
"""


def gpu(index: int, free: int | None) -> DeviceInfo:
    return DeviceInfo(Device("cuda", index), "GPU", free, 80 * GIB)


CPU = DeviceInfo(Device("cpu"), "CPU")


def test_auto_takes_the_most_free_memory_and_not_the_first() -> None:
    devices = (gpu(0, 2 * GIB), gpu(1, 60 * GIB), gpu(2, 40 * GIB), CPU)
    assert choose(devices).device == Device("cuda", 1)
    assert "cuda:1" in explain_auto(devices)
    assert "60.0 GiB" in explain_auto(devices)


def test_auto_takes_the_first_where_nothing_is_known() -> None:
    assert choose((gpu(0, None), gpu(1, None), CPU)).device == Device("cuda", 0)
    assert choose((gpu(0, None), gpu(1, 1), CPU)).device == Device("cuda", 1)


def test_auto_falls_back_to_the_cpu_with_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "flag_rerank_integrations"):
        assert choose((CPU,)).device == Device("cpu")
    assert "CPU" in caplog.text
    assert "no accelerator" in explain_auto((CPU,))


def test_memory_follows_the_visible_devices() -> None:
    every = visible_memory(TABLE, None)
    assert [every[i][1] >> 20 for i in range(3)] == [1024, 90000, 70000]
    assert visible_memory(TABLE, "2,0") == {0: every[2], 1: every[0]}
    assert visible_memory(TABLE, "GPU-bbbb") == {0: every[1]}
    assert visible_memory(TABLE, "MIG-dddd,1") == {1: every[1]}  # whose memory the table does not have
    assert visible_memory(TABLE, "") == {}
    assert visible_memory("0, GPU-x, Some GPU, [N/A], [N/A]\n", None) == {}
    assert visible_memory("Failed to initialize NVML\n", None) == {}


def test_memory_is_asked_of_the_driver_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flag_rerank_integrations.devices import _cuda_memory
    from flag_rerank_integrations.monitoring import cuda, nvml

    monkeypatch.setattr(nvml, "readings", list)  # no NVML here
    monkeypatch.setattr(cuda, "_library", lambda: None)
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncat <<'TABLE'\n{TABLE}TABLE\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert _cuda_memory() == {0: ("NVIDIA H200", 90000 << 20, 143771 << 20)}
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert _cuda_memory() == {}


@pytest.mark.parametrize("spec", ["cpu:0", "auto:0", "all:2", []])
def test_no_device_at_all_is_refused(spec: Any) -> None:
    with pytest.raises(ConfigError, match=r"no device|at least one"):
        resolve(spec)


@pytest.mark.parametrize("spec", ["cpu", "CPU", " cpu "])
def test_cpu(spec: str) -> None:
    assert resolve(spec) == (Device("cpu"),)


@pytest.mark.parametrize("spec, count", [(["cpu", "cpu"], 2), ("cpu:3", 3), (("cpu",), 1), ("cpu:1", 1)])
def test_several_workers_on_the_cpu(spec: Any, count: int) -> None:
    assert resolve(spec) == (Device("cpu"),) * count


def test_all_and_auto_take_accelerators_where_there_are_some() -> None:
    accelerators = [info for info in inventory() if info.device.kind != "cpu"]
    assert len(resolve("all")) == max(1, len(accelerators))
    if accelerators:
        with pytest.raises(DeviceError, match="accelerators"):
            resolve(f"auto:{len(accelerators) + 1}")


def test_freest_first_and_all_in_order() -> None:
    devices = (gpu(0, 2 * GIB), gpu(1, 60 * GIB), gpu(2, 40 * GIB), CPU)
    assert [info.device.index for info in _freest("auto", 2, devices)] == [1, 2]
    assert [info.device.index for info in _freest("all", None, devices)] == [0, 1, 2]
    with pytest.raises(DeviceError, match="not 4 accelerators"):
        _freest("auto", 4, devices)


@pytest.mark.parametrize("spec", ["ray:4", ["cpu", "ray"]])
def test_ray_is_no_device_of_this_machine(spec: Any) -> None:
    with pytest.raises(ConfigError, match="stands alone and is for a Reranker"):
        resolve(spec)


@pytest.mark.parametrize("spec", ["gpu", "cuda:x", "cuda:-1", "", "tpu:0", "cuda 1", ["cpu", "gpu"]])
def test_what_cannot_be_read_is_refused_with_examples(spec: Any) -> None:
    with pytest.raises(ConfigError, match="cuda:1"):
        resolve(spec)


@pytest.mark.parametrize("spec", ["cuda:97", "mps", "npu:0", "xpu:0"])
def test_a_device_that_does_not_exist_is_refused_with_a_list(spec: str) -> None:
    if spec in {str(info.device) for info in inventory()}:
        spec = "cuda:98"
    with pytest.raises(DeviceError, match=r"there is .*cpu"):
        resolve(spec)


@pytest.mark.parametrize("device", [97, "cuda:97", torch.device("cuda", 97)])
def test_a_missing_device_is_refused_before_anything_is_loaded(device: Any) -> None:
    with pytest.raises(DeviceError, match="cuda:97"):
        Reranker("/no/such/model", device=device)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_forms_of_one_device(tiny: Any, device: Any) -> None:
    with Reranker(tiny("bert"), device=device) as reranker:
        assert reranker.config.device == "cpu"
        assert reranker.stats().devices[0].name == "cpu"


def test_inventory_ends_with_the_cpu() -> None:
    devices = inventory()
    assert devices[-1].device == Device("cpu")
    assert devices[-1].total_memory is None or devices[-1].total_memory > GIB >> 4
    assert resolve("auto")[0] in {info.device for info in devices}


def test_choosing_the_cpu_does_not_import_torch() -> None:
    code = "import sys; from flag_rerank_integrations.devices import resolve; resolve('cpu'); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_worker_sees_its_device_alone() -> None:
    masked = {"CUDA_VISIBLE_DEVICES": "GPU-aaaa,3,GPU-cccc", "PATH": "/bin"}
    assert child_environment(masked, Device("cuda", 2), 4)["CUDA_VISIBLE_DEVICES"] == "GPU-cccc"
    assert child_environment({}, Device("cuda", 2), 4)["CUDA_VISIBLE_DEVICES"] == "2"
    assert child_environment(masked, Device("xpu", 1), 4) | {"CUDA_VISIBLE_DEVICES": ""} == child_environment(
        masked, Device("xpu", 1), 4
    )
    assert child_environment({}, Device("xpu", 1), 4)["ZE_AFFINITY_MASK"] == "1"
    assert child_environment({}, Device("npu", 3), 4)["ASCEND_RT_VISIBLE_DEVICES"] == "3"
    named = child_environment(masked, Device("cuda", 2), 4, "GPU-of-its-own")
    assert named["CUDA_VISIBLE_DEVICES"] == "GPU-of-its-own"
    cpu = child_environment(masked, Device("cpu"), 4)
    assert (cpu["CUDA_VISIBLE_DEVICES"], cpu["OMP_NUM_THREADS"], cpu["PATH"]) == ("", "4", "/bin")
