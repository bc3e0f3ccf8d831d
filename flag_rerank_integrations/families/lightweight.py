"""bge-reranker-v2.5-gemma2-lightweight and its kind: Gemma 2 with heads by layer and token compression."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import ModelLoadError
from flag_rerank_integrations.families.checkpoint import Checkpoint
from flag_rerank_integrations.families.decoder import Attention, Feedforward, Norm, Place, Shape
from flag_rerank_integrations.families.layered import Architecture, LayeredModel
from flag_rerank_integrations.families.layered_loading import load_layered
from flag_rerank_integrations.families.settings import Settings

__all__ = ["LIGHTWEIGHT_PROMPT", "MODEL_TYPE", "load"]

MODEL_TYPE: Final = "cost_wise_gemma"
# The first prompt of the model card, and the default of FlagEmbedding 1.4.2's LightWeightFlagLLMReranker.
LIGHTWEIGHT_PROMPT: Final = "Predict whether passage B contains an answer to query A."
_ACTIVATION: Final = "gelu_pytorch_tanh"


def load(checkpoint: Checkpoint, config: RerankConfig, device: Device) -> LayeredModel:
    """Load a lightweight checkpoint as far as `cutoff_layer`.

    Raises:
        ConfigError: A layer, a length or a prompt that the model cannot take.
        DeviceError: The device has too little memory.
        ModelLoadError: The checkpoint is no such model, or incomplete.
    """
    return load_layered(_architecture(checkpoint, config), checkpoint, config, device)


class SandwichLayer(nn.Module):
    """A layer of Gemma 2's form: a norm before and behind attention, and before and behind the rest."""

    def __init__(self, shape: Shape, window: int | None) -> None:
        super().__init__()
        self.self_attn: Attention = Attention(shape, window)
        self.mlp: Feedforward = Feedforward(shape)
        self.input_layernorm: Norm = Norm(shape)
        self.post_attention_layernorm: Norm = Norm(shape)
        self.pre_feedforward_layernorm: Norm = Norm(shape)
        self.post_feedforward_layernorm: Norm = Norm(shape)

    def forward(self, hidden: Tensor, place: Place) -> Tensor:
        """Run the layer over (tokens, size)."""
        attended = self.self_attn(self.input_layernorm(hidden), place)
        hidden = place.kept(hidden) + self.post_attention_layernorm(attended)
        return torch.add(hidden, self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(hidden))))


def _architecture(checkpoint: Checkpoint, config: RerankConfig) -> Architecture:
    """Read config.json; names and defaults are those of FlagEmbedding 1.4.2's CostWiseGemmaConfig."""
    settings = Settings(checkpoint, config)
    if settings.get("model_type") != MODEL_TYPE or settings.get("layer_wise") is not True:
        msg = f"{config.model!r} is no lightweight reranker: its config.json is not of a layer-wise {MODEL_TYPE}."
        raise ModelLoadError(msg)
    count, start = settings.count("num_hidden_layers"), settings.count("start_layer")
    layers = range(start, count + 1, settings.count("layer_sep", 1))
    if not layers:
        settings.refuse("start_layer", f"at most num_hidden_layers={count}")
    names = tuple(f"lm_head.{i}.linear_head.weight" for i in range(len(layers)))
    return Architecture(
        name="lightweight",
        shape=_shape(settings, count),
        make_layer=SandwichLayer,
        layers=layers,
        # The reference picks a head by the place of a layer in the list that was asked for, so that one
        # cutoff alone always reads the first. The published figures were made that way.
        head_names=names if config.matched_head else names[:1],
        softcap=settings.optional_number("final_logit_softcapping"),
        prompt=LIGHTWEIGHT_PROMPT,
    )


def _shape(settings: Settings, count: int) -> Shape:
    size, heads = settings.count("hidden_size"), settings.count("num_attention_heads")
    head_size = settings.count("head_dim")
    return Shape(
        vocabulary=settings.count("vocab_size"),
        size=size,
        inner_size=settings.count("intermediate_size"),
        heads=heads,
        key_heads=settings.count("num_key_value_heads", heads),
        head_size=head_size,
        windows=_windows(settings, count),
        activation=settings.choice("hidden_activation", _ACTIVATION, (_ACTIVATION,)),
        norm_eps=settings.number("rms_norm_eps", 1e-6),
        rope_theta=settings.rope_theta(),
        embedding_scale=size**0.5,
        attention_scale=settings.number("query_pre_attn_scalar", head_size) ** -0.5,
        attention_bias=bool(settings.get("attention_bias")),
        softcap=settings.optional_number("attn_logit_softcapping"),
        norm_offset=1.0,
    )


def _windows(settings: Settings, count: int) -> tuple[int | None, ...]:
    """Return each layer's window: Gemma 2 limits every other layer, beginning with the first."""
    if settings.get("sliding_window") is None:
        return (None,) * count
    window = settings.count("sliding_window")
    kinds = settings.get("layer_types") or ["sliding_attention", "full_attention"] * count
    return tuple(window if kind == "sliding_attention" else None for kind in kinds[:count])
