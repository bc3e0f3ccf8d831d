"""Loading a layered model: the layers and heads up to the cutoff, and nothing else of the checkpoint."""

from __future__ import annotations

import re
from typing import Any, Final

import torch
from transformers import PreTrainedTokenizerFast

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import ConfigError, ModelLoadError
from flag_rerank_integrations.families.causal import CausalEncoder
from flag_rerank_integrations.families.checkpoint import Checkpoint, effective_max_length, position_limit
from flag_rerank_integrations.families.decoder import Decoder
from flag_rerank_integrations.families.heads import Heads
from flag_rerank_integrations.families.layered import Architecture, LayeredModel
from flag_rerank_integrations.families.loading import Stopwatch, quiet_transformers, torch_dtype
from flag_rerank_integrations.families.prompts import prompt_text
from flag_rerank_integrations.families.weights import StoredWeights
from flag_rerank_integrations.windows import Windows

__all__ = ["load_layered"]

_PREFIX: Final = "model."
_LAYER: Final = re.compile(r"model\.layers\.(\d+)\.")
_COMPUTED: Final = "inv_freq"  # old checkpoints carry it; it follows from config.json


def load_layered(
    architecture: Architecture, checkpoint: Checkpoint, config: RerankConfig, device: Device
) -> LayeredModel:
    """Load a layered model as far as it will be read. Code that a checkpoint brings is never run.

    Raises:
        ConfigError: A layer, a length or a prompt that the model cannot take.
        DeviceError: The device has too little memory.
        ModelLoadError: The checkpoint is incomplete, or not what its config.json says.
    """
    readable = architecture.up_to(config)
    _check_compress_layers(architecture, config)
    stopwatch = Stopwatch()
    with stopwatch.step("tokenizer"):
        encoder = _encoder(architecture, checkpoint, config)
    with stopwatch.step("weights"):
        files = StoredWeights(checkpoint, config)
        decoder = _decoder(architecture, files, readable[-1], config, device)
        heads = _heads(architecture, files, readable, device)
    return LayeredModel(
        architecture,
        decoder=decoder,
        heads=heads,
        encoder=encoder,
        config=config,
        device=device,
        load_seconds=stopwatch.seconds,
    )


def _check_compress_layers(architecture: Architecture, config: RerankConfig) -> None:
    """Refuse layers that the model does not have; those behind the cutoff just do nothing."""
    layers = range(1, len(architecture.shape.windows))
    wrong = [layer for layer in config.compress_layers if layer not in layers]
    if wrong and config.compress_ratio > 1:
        msg = f"compress_layers={wrong[0]} is out of range: {config.model!r} can compress at layers 1 to {layers[-1]}."
        raise ConfigError(msg)


def _encoder(architecture: Architecture, checkpoint: Checkpoint, config: RerankConfig) -> CausalEncoder:
    tokenizer = _tokenizer(checkpoint, config)
    if len(tokenizer) > architecture.shape.vocabulary:
        msg = (
            f"The tokenizer of {config.model!r} has {len(tokenizer)} tokens, but the model has embeddings for "
            f"{architecture.shape.vocabulary}."
        )
        raise ModelLoadError(msg)
    if tokenizer.bos_token_id is None:
        msg = f"The tokenizer of {config.model!r} names no bos token, with which every pair begins."
        raise ModelLoadError(msg)
    encoder = CausalEncoder(
        tokenizer.backend_tokenizer,
        bos_id=tokenizer.bos_token_id,
        prompt=prompt_text(config, architecture.prompt),
        special_tokens=config.special_tokens,
        instruction=config.instruction,
        windows=Windows.of(config),
        passage_instruction=config.passage_instruction,
    )
    limit = position_limit(checkpoint.config)
    room = None if limit is None else limit - 2 * encoder.tail_length
    encoder.cut_to(effective_max_length(config, room), config.query_max_length)
    return encoder


def _tokenizer(checkpoint: Checkpoint, config: RerankConfig) -> Any:  # noqa: ANN401 - transformers' tokenizers share no typed base
    """Load tokenizer.json as it is. The Auto class would look for, and may run, the code that config.json names."""
    if not (checkpoint.path / "tokenizer.json").is_file():
        msg = f"{config.model!r} has no tokenizer.json: the texts cannot be tokenized."
        raise ModelLoadError(msg)
    with quiet_transformers():
        try:
            return PreTrainedTokenizerFast.from_pretrained(checkpoint.path, local_files_only=True)
        except Exception as error:  # tokenizers raises bare Exceptions
            line = next(iter(str(error).strip().splitlines()), "no message")
            msg = f"The tokenizer of {config.model!r} could not be loaded ({type(error).__name__}: {line[:300]})."
            raise ModelLoadError(msg) from error


def _decoder(
    architecture: Architecture, files: StoredWeights, depth: int, config: RerankConfig, device: Device
) -> Decoder:
    """Build the first `depth` layers without memory, then fill in the checkpoint's weights."""
    with torch.device("meta"):
        decoder = Decoder(architecture.shape, architecture.make_layer, depth)
    shapes = {f"{_PREFIX}{name}": tuple(weight.shape) for name, weight in decoder.state_dict().items()}
    strays = sorted(name for name in files.names if _belongs_to(name, depth) and name not in shapes)
    if strays:
        msg = f"{config.model!r} has weights that its config.json has no place for: {', '.join(strays[:3])}."
        raise ModelLoadError(msg)
    weights = files.read(shapes, torch_dtype(config, device), device)
    decoder.load_state_dict({name.removeprefix(_PREFIX): weight for name, weight in weights.items()}, assign=True)
    return decoder.eval().requires_grad_(requires_grad=False)


def _belongs_to(name: str, depth: int) -> bool:
    """Tell whether a stored weight is one of the part that is loaded."""
    if name.endswith(_COMPUTED) or not name.startswith(_PREFIX):
        return False
    layer = _LAYER.match(name)
    return layer is None or int(layer[1]) < depth


def _heads(architecture: Architecture, files: StoredWeights, readable: range, device: Device) -> Heads:
    names = architecture.head_names[: len(readable)]
    rows = files.read(dict.fromkeys(names, (1, architecture.shape.size)), torch.float32, device)
    return Heads(readable, torch.cat([rows[name] for name in names]), architecture.softcap)
