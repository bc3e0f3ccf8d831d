"""Model families: which one a checkpoint belongs to, read from its config files, never from its name."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import ConfigError, DeviceError, ModelLoadError, RerankError
from flag_rerank_integrations.families.base import Family
from flag_rerank_integrations.families.checkpoint import Checkpoint

__all__ = ["detect", "load"]

# Loaded on demand: each needs libraries that the others do not.
_MODULES = {
    "encoder": "encoder",
    "causal": "causal",
    "onnx": "onnx",
    "sentence-transformers": "cross_encoder",
    "layerwise": "layerwise",
    "lightweight": "lightweight",
}
# Those whose encoders cut passages into windows; the others leave the layout to another library.
_READS_WINDOWS = frozenset({"encoder", "causal", "onnx", "layerwise", "lightweight"})
_TAKES_ADAPTERS = frozenset({"encoder", "causal"})
_BY_ARCHITECTURE = {
    "LayerWiseMiniCPMForCausalLM": "layerwise",
    "CostWiseGemmaForCausalLM": "lightweight",
}
_LAYERED = ("layerwise", "lightweight")
# Options that mean something to some families only; a value but the default is refused elsewhere.
_OPTIONS_OF = {
    "passage_instruction": ("causal", *_LAYERED),
    "cutoff_layer": _LAYERED,
    "progressive": _LAYERED,
    "compress_ratio": ("lightweight",),
    "compress_layers": ("lightweight",),
    "matched_head": ("lightweight",),
    "quantization": ("encoder", "causal"),
}


def load(config: RerankConfig, device: Device) -> Family:
    """Load the model that a config names, on one device.

    Raises:
        ConfigError: Options that this model cannot take.
        ModelLoadError: The checkpoint is missing, broken, unsafe, or not a reranker.
        DeviceError: The device has too little memory.
    """
    checkpoint = Checkpoint.open(config)
    name = detect(checkpoint, config)
    _check_options(name, checkpoint, config)
    module = import_module(f"{__name__}.{_MODULES[name]}")
    try:
        family: Family = module.load(checkpoint, config, device)
    except RerankError:
        raise
    except Exception as error:  # whatever a library makes of a file that is not what it should be
        raise _explained(error, config, device) from error
    return family


def _explained(error: Exception, config: RerankConfig, device: Device) -> RerankError:
    """Return the error of this package for one that a library raised in the middle of a load."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch may not be imported here
        return DeviceError(f"{config.model!r} does not fit into the free memory of {device}.")
    said = " ".join(str(error).split())[:300] or "no message"
    return ModelLoadError(f"{config.model!r} could not be loaded ({type(error).__name__}: {said}).")


def _check_options(name: str, checkpoint: Checkpoint, config: RerankConfig) -> None:
    """Refuse what only other families can do.

    Raises:
        ConfigError: It is asked for.
    """
    if config.long_passages == "windows" and name not in _READS_WINDOWS:
        msg = f"The {name} family cannot read {config.model!r} in windows: use long_passages='truncate' or 'error'."
        raise ConfigError(msg)
    if checkpoint.adapter is not None and name not in _TAKES_ADAPTERS:
        msg = f"{config.model!r} is an adapter, which the {name} family cannot merge: merge it with peft and save that."
        raise ConfigError(msg)
    if config.quantization is not None and checkpoint.adapter is not None:
        msg = (
            f"quantization={config.quantization!r} cannot be used for {config.model!r}: an adapter is merged into "
            f"whole weights."
        )
        raise ConfigError(msg)
    _refuse_options(name, config)


def detect(checkpoint: Checkpoint, config: RerankConfig) -> str:
    """Return the name of the family that a checkpoint belongs to.

    Raises:
        ConfigError: `family` and `backend` contradict each other.
        ModelLoadError: It is no reranker.
    """
    wanted = "onnx" if config.backend == "onnx" and config.family == "auto" else config.family
    if config.backend != "auto" and (config.backend == "onnx") != (wanted == "onnx") and wanted != "auto":
        msg = f"backend={config.backend!r} cannot run family={config.family!r}."
        raise ConfigError(msg)
    if wanted != "auto":
        return wanted
    if any(module.endswith("LogitScore") for module in checkpoint.modules):
        return "sentence-transformers"
    if checkpoint.has("*.onnx") and not checkpoint.has("*.safetensors", "*.bin"):
        return "onnx"
    return _by_architecture(checkpoint, config)


def _refuse_options(family: str, config: RerankConfig) -> None:
    """Refuse options that this family has no use for: one that is accepted and ignored is worse than none."""
    for option in fields(config):
        families = _OPTIONS_OF.get(option.name, (family,))
        if family not in families and getattr(config, option.name) != option.default:
            msg = (
                f"{option.name} is an option of {' and '.join(families)} models; {config.model!r} is of the "
                f"{family} family."
            )
            raise ConfigError(msg)


def _by_architecture(checkpoint: Checkpoint, config: RerankConfig) -> str:
    architecture = checkpoint.architecture
    if architecture in _BY_ARCHITECTURE:
        return _BY_ARCHITECTURE[architecture]
    if checkpoint.adapter is not None and checkpoint.adapter.family is not None:
        return checkpoint.adapter.family
    if any(module.endswith("Pooling") for module in checkpoint.modules):
        msg = f"{config.model!r} is an embedding model (modules.json has a Pooling module), not a reranker."
        raise ModelLoadError(msg)
    if architecture.endswith("ForSequenceClassification"):
        return "encoder"
    if architecture.endswith("ForCausalLM"):
        return "causal"
    kind = architecture or "a model whose config.json names no architecture"
    msg = (
        f"{config.model!r} is {kind}, not a reranker: a reranker is a ...ForSequenceClassification with one label, "
        f"a ...ForCausalLM trained to rerank, or an ONNX cross-encoder."
    )
    raise ModelLoadError(msg)
