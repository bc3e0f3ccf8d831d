"""Layers of ours in a decoder's place: all of them on a CPU in float32, the last one anywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from flag_rerank_integrations.families.decoder_layer import DecoderLayer
from flag_rerank_integrations.families.last_token_layer import LastTokenLayer
from flag_rerank_integrations.families.workspace import Workspace

__all__ = ["use_decoder_layers", "use_last_token_layer"]

_Layers = Sequence[torch.nn.Module]


def use_decoder_layers(model: Any) -> Callable[[], None] | None:  # noqa: ANN401 - transformers' models share no typed base
    """Let a decoder compute in layers of ours, which give the last token of each pair alone.

    Accelerators keep the model's own: there neither memory nor the number of products is what costs time.

    Returns:
        What puts the model's own back, or None where this is no such model.
    """
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return None
    space = Workspace()
    return _use(
        model, lambda layers: [*(DecoderLayer(layer, space) for layer in layers[:-1]), LastTokenLayer(layers[-1])]
    )


def use_last_token_layer(model: Any) -> Callable[[], None] | None:  # noqa: ANN401 - as above
    """Do so with the last layer alone."""
    return _use(model, lambda layers: [*layers[:-1], LastTokenLayer(layers[-1])])


def _use(model: Any, replaced: Callable[[_Layers], _Layers]) -> Callable[[], None] | None:  # noqa: ANN401 - as above
    layers = getattr(model.base_model, "layers", None)
    if not layers:
        return None
    own = list(layers)
    try:
        _exchange(layers, replaced(own))
    except AttributeError:
        return None
    return partial(_exchange, layers, own)


def _exchange(layers: torch.nn.ModuleList, others: _Layers) -> None:
    """Fill the list that the model runs through with others."""
    for index, layer in enumerate(others):
        layers[index] = layer
