"""bge-reranker-v2-minicpm-layerwise and its kind: MiniCPM with a score head behind each of its later layers."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import ModelLoadError
from flag_rerank_integrations.families.causal import DEFAULT_PROMPT
from flag_rerank_integrations.families.checkpoint import Checkpoint
from flag_rerank_integrations.families.decoder import Attention, Feedforward, Norm, Place, Shape
from flag_rerank_integrations.families.layered import Architecture, LayeredModel
from flag_rerank_integrations.families.layered_loading import load_layered
from flag_rerank_integrations.families.settings import Settings

__all__ = ["MODEL_TYPE", "load"]

MODEL_TYPE: Final = "minicpm"


def load(checkpoint: Checkpoint, config: RerankConfig, device: Device) -> LayeredModel:
    """Load a layerwise checkpoint as far as `cutoff_layer`.

    Raises:
        ConfigError: A layer, a length or a prompt that the model cannot take.
        DeviceError: The device has too little memory.
        ModelLoadError: The checkpoint is no such model, or incomplete.
    """
    return load_layered(_architecture(checkpoint, config), checkpoint, config, device)


class ScaledLayer(nn.Module):
    """A layer of Llama's form, whose two additions to the hidden states are scaled."""

    def __init__(self, shape: Shape, window: int | None) -> None:
        super().__init__()
        self.self_attn: Attention = Attention(shape, window)
        self.mlp: Feedforward = Feedforward(shape)
        self.input_layernorm: Norm = Norm(shape)
        self.post_attention_layernorm: Norm = Norm(shape)
        self._scale = shape.residual_scale

    def forward(self, hidden: Tensor, place: Place) -> Tensor:
        """Run the layer over (tokens, size)."""
        attended = self.self_attn(self.input_layernorm(hidden), place)
        hidden = torch.add(place.kept(hidden), attended, alpha=self._scale)
        return torch.add(hidden, self.mlp(self.post_attention_layernorm(hidden)), alpha=self._scale)


def _architecture(checkpoint: Checkpoint, config: RerankConfig) -> Architecture:
    """Read config.json; names and defaults are those of FlagEmbedding 1.4.2's LayerWiseMiniCPMConfig."""
    settings = Settings(checkpoint, config)
    if settings.get("model_type") != MODEL_TYPE or settings.get("start_layer") is None:
        msg = f"{config.model!r} is no layerwise reranker: its config.json is not of MiniCPM with a start_layer."
        raise ModelLoadError(msg)
    settings.choice("head_type", "simple", ("simple",))
    count, start = settings.count("num_hidden_layers"), settings.count("start_layer")
    layers = range(start, count + 1)
    if not layers:
        settings.refuse("start_layer", f"at most num_hidden_layers={count}")
    several = settings.get("head_multi") is not False
    names = tuple(f"lm_head.{i}.linear_head.weight" for i in range(len(layers)))
    return Architecture(
        name="layerwise",
        shape=_shape(settings, count),
        make_layer=ScaledLayer,
        layers=layers,
        head_names=names if several else ("lm_head.linear_head.weight",),
        softcap=None,
        prompt=DEFAULT_PROMPT,
    )


def _shape(settings: Settings, count: int) -> Shape:
    size, heads = settings.count("hidden_size"), settings.count("num_attention_heads")
    head_size = size // heads
    return Shape(
        vocabulary=settings.count("vocab_size"),
        size=size,
        inner_size=settings.count("intermediate_size"),
        heads=heads,
        key_heads=settings.count("num_key_value_heads", heads),
        head_size=head_size,
        windows=(None,) * count,
        activation=settings.choice("hidden_act", "silu", ("silu",)),
        norm_eps=settings.number("rms_norm_eps", 1e-6),
        rope_theta=settings.rope_theta(),
        embedding_scale=settings.number("scale_emb", 1.0),
        attention_scale=head_size**-0.5,
        attention_bias=bool(settings.get("attention_bias")),
        residual_scale=settings.number("scale_depth", 1.0) / math.sqrt(count),
    )
