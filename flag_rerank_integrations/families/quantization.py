"""Fewer bits for weights on accelerators, by the libraries that transformers integrates.

Only weights are quantized here, never activations: a scheme that scales activations by what is in
the batch would make a pair's score depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final

import transformers

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import ConfigError, MissingExtraError

__all__ = ["quantized_loading", "quantizes_after_load"]

# Score heads, by the names that transformers' architectures give them; they stay as they are.
_HEADS: Final = ("classifier", "pre_classifier", "score", "head", "pooler", "lm_head")
# What each needs, and where it is known to run.
_LIBRARIES: Final = {"int8": ("torchao", "accelerate"), "int4": ("bitsandbytes", "accelerate")}
_KINDS: Final = ("cuda", "xpu")
# What needs no library: 8 bits on a CPU.
_OURS: Final = frozenset({("int8", "cpu")})


def quantized_loading(config: RerankConfig, device: Device, dtype: Any) -> dict[str, Any]:  # noqa: ANN401 - torch's type
    """Return what `from_pretrained` needs to quantize as it loads; nothing where that is not asked for.

    Args:
        config: Says how many bits a weight may have.
        device: Where the model will run.
        dtype: The data type to compute in.

    Raises:
        ConfigError: Not on this device; `MissingExtraError` where a library is missing.
    """
    bits = config.quantization
    if bits is None or quantizes_after_load(config, device):
        return {}
    _check_device(bits, device)
    missing = [name for name in _LIBRARIES[bits] if find_spec(name) is None]
    if missing:
        msg = (
            f"quantization={bits!r} on {device} needs {' and '.join(missing)}. "
            f'Install it with: pip install "flag-rerank-integrations[quantization]"'
        )
        raise MissingExtraError(msg, name=missing[0])
    return {"quantization_config": _MADE_BY[bits](dtype), "device_map": {"": str(device)}}


def quantizes_after_load(config: RerankConfig, device: Device) -> bool:
    """Tell whether the family itself turns weights into integers, once they are there; see `int8_linear`."""
    return (config.quantization, device.kind) in _OURS


def _check_device(bits: str, device: Device) -> None:
    """Refuse devices that the libraries are not known to run on.

    Raises:
        ConfigError: It is one of them.
    """
    if device.kind == "cpu":
        msg = (
            f"quantization={bits!r} is for accelerators, and this model runs on the CPU. There quantization='int8' "
            f"can be used, or an int8 ONNX model such as 'quickstart'."
        )
        raise ConfigError(msg)
    if device.kind not in _KINDS:
        msg = f"quantization={bits!r} is not available on {device}, only on {' and '.join(_KINDS)} devices."
        raise ConfigError(msg)


def _int8(_dtype: Any) -> Any:  # noqa: ANN401 - as above
    """Weights as int8, a scale for each row."""
    from torchao.quantization import Int8WeightOnlyConfig

    return transformers.TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=list(_HEADS))


def _int4(dtype: Any) -> Any:  # noqa: ANN401 - as above
    """Weights in 4 bits, in the steps of QLoRA's NF4; a scale for each block of 64."""
    return transformers.BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(_HEADS),
    )


_MADE_BY: Final[dict[str, Callable[[Any], Any]]] = {"int8": _int8, "int4": _int4}
