"""ONNX files and onnxruntime sessions: which file to take, on which provider, with which threads."""

from __future__ import annotations

import logging
import mmap
import os
import re
from pathlib import Path
from typing import Any, Final

from flag_rerank_integrations.devices import Device, available_cores
from flag_rerank_integrations.errors import DeviceError, ModelLoadError

__all__ = ["cpu_count", "find_weights", "is_dynamically_quantized", "is_runtimes_own", "open_session", "said"]

logger: Final = logging.getLogger(__name__)

_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ERRORS_ONLY: Final = 3
# Field 4 of a NodeProto, its operator: tag 0x22, one byte of length, the name.
_OPERATOR: Final = re.compile(rb"\x22[\x05-\x28]((?:DynamicQuantize|QAttention|\w{3,20}Integer)\w*)")


def find_weights(directory: Path) -> Path:
    """Return the graph to run: model.onnx where there is one, at the top or in onnx/.

    Raises:
        ModelLoadError: There is no ONNX file.
    """
    found = sorted(directory.glob("*.onnx")) + sorted((directory / "onnx").glob("*.onnx"))
    if not found:
        msg = f"There is no *.onnx file in {str(directory)!r} or its onnx/ folder."
        raise ModelLoadError(msg)
    chosen = next((path for path in found if path.name == "model.onnx"), found[0])
    if len(found) > 1:
        logger.info("Of %d ONNX files in %s, %s is used.", len(found), directory, chosen.relative_to(directory))
    return chosen


def is_dynamically_quantized(weights: Path) -> bool:
    """Tell whether a graph quantizes activations by the range of whatever runs with them.

    Such a graph gives a pair a score that depends on the other pairs of its batch. The
    operators' names are looked up in the file itself, which takes milliseconds and no package.
    """
    if weights.stat().st_size == 0:
        return False
    with weights.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _OPERATOR.search(content) is not None


def open_session(weights: Path, device: Device) -> Any:  # noqa: ANN401 - onnxruntime ships no types
    """Open a session that runs on the chosen device and on no other.

    Raises:
        DeviceError: This onnxruntime cannot run on that device.
        ModelLoadError: onnxruntime is not installed, or cannot read the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        msg = f'ONNX models need onnxruntime ({error}). Install it with: pip install "flag-rerank-integrations[onnx]"'
        raise ModelLoadError(msg) from error
    provider = _provider(onnxruntime, device)
    try:
        session = onnxruntime.InferenceSession(str(weights), _session_options(onnxruntime), providers=[provider])
    except Exception as error:
        if device.kind != "cpu":
            msg = f"onnxruntime could not load {weights.name} on {device} ({said(error)})."
            raise DeviceError(msg) from error
        msg = f"onnxruntime could not load {str(weights)!r} ({said(error)})."
        raise ModelLoadError(msg) from error
    session.disable_fallback()
    if session.get_providers()[0] != provider[0]:
        # onnxruntime goes on with the CPU, in silence, where a provider's libraries do not load.
        msg = f"onnxruntime's {provider[0]} did not start on {device}: are CUDA and cuDNN of its version installed?"
        raise DeviceError(msg)
    return session


def cpu_count() -> int:
    """Return how many threads to compute with: a CPU each, and no more than OMP_NUM_THREADS says.

    onnxruntime does not read that variable; it is a worker's share of the cores, or the user's wish.
    """
    share = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    cores = available_cores()
    return min(cores, int(share)) if share.isdecimal() and int(share) > 0 else cores


def is_runtimes_own(error: BaseException) -> bool:
    """Tell whether onnxruntime raised an error: they share no base, only the module they come from."""
    return type(error).__module__.startswith("onnxruntime.")


def said(error: BaseException) -> str:
    """Return an error's type and first line."""
    line = next(iter(str(error).strip().splitlines()), "no message")
    return f"{type(error).__name__}: {line[:300]}"


def _provider(onnxruntime: Any, device: Device) -> tuple[str, dict[str, Any]]:  # noqa: ANN401 - as above
    name = _PROVIDERS.get(device.kind)
    if name is None:
        msg = f"ONNX models run on cpu and cuda devices here, not on {device}."
        raise DeviceError(msg)
    if name == "CPUExecutionProvider":
        return name, {}
    available = onnxruntime.get_available_providers()
    if name not in available:
        msg = (
            f"This onnxruntime cannot run on {device}: it has {', '.join(available)}. "
            f"Install onnxruntime-gpu in its place, or choose device='cpu'."
        )
        raise DeviceError(msg)
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # finds the CUDA libraries that came with torch
    return name, {"device_id": device.index or 0}


def _session_options(onnxruntime: Any) -> Any:  # noqa: ANN401 - as above
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = cpu_count()
    # Idle threads that spin are faster for one caller and take the cores from everyone else.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Plans of memory are kept for every shape that was seen; here almost every pair has its own.
    options.enable_mem_pattern = False
    return options
