"""Model families: which one a checkpoint belongs to, read from its config files, never from its name."""

from __future__ import annotations

from importlib import import_module

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import ConfigError, ModelLoadError
from flag_rerank_integrations.families.base import Family
from flag_rerank_integrations.families.checkpoint import Checkpoint

__all__ = ["detect", "load"]

# Loaded on demand: each needs libraries that the others do not.
_MODULES = {
    "encoder": "encoder",
    "causal": "causal",
    "onnx": "onnx",
    "sentence-transformers": "cross_encoder",
}
# Those whose encoders cut passages into windows; the others leave the layout to another library.
_READS_WINDOWS = frozenset({"encoder", "causal", "onnx"})
_TAKES_ADAPTERS = _QUANTIZES = frozenset({"encoder", "causal"})
_NOT_YET = {
    "LayerWiseMiniCPMForCausalLM": "layerwise",
    "CostWiseGemmaForCausalLM": "lightweight",
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
    family: Family = module.load(checkpoint, config, device)
    return family


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
    if config.quantization is None:
        return
    what = f"quantization={config.quantization!r} cannot be used for {config.model!r}"
    if name not in _QUANTIZES:
        msg = f"{what}, which is of the {name} family."
        raise ConfigError(msg)
    if checkpoint.adapter is not None:
        msg = f"{what}: an adapter is merged into whole weights."
        raise ConfigError(msg)


def detect(checkpoint: Checkpoint, config: RerankConfig) -> str:
    """Return the name of the family that a checkpoint belongs to.

    Raises:
        ConfigError: `family` and `backend` contradict each other.
        ModelLoadError: It is no reranker, or of a family that is not available yet.
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


def _by_architecture(checkpoint: Checkpoint, config: RerankConfig) -> str:
    architecture = checkpoint.architecture
    if checkpoint.adapter is not None and checkpoint.adapter.family is not None and architecture not in _NOT_YET:
        return checkpoint.adapter.family
    if architecture in _NOT_YET:
        msg = f"{config.model!r} is of the {_NOT_YET[architecture]} family, which is not available yet."
        raise ModelLoadError(msg)
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
