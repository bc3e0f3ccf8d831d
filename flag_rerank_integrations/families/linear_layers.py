"""Linear layers that write their products into memory which is there already, and several of them in one."""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch

from flag_rerank_integrations.families.int8_linear import Int8Linear
from flag_rerank_integrations.families.workspace import Workspace

__all__ = ["merged", "multiply"]


def multiply(inputs: torch.Tensor, layer: torch.nn.Module, space: Workspace, name: str) -> torch.Tensor:
    """Return layer(inputs), computed in a workspace.

    Args:
        inputs: Shape (rows, inputs).
        layer: A linear layer; one of a library's own kind takes memory as it likes.
        space: Where to compute.
        name: Of the place in it.
    """
    output: torch.Tensor
    if isinstance(layer, Int8Linear):
        output = layer(inputs, space.take(name, (len(inputs), len(layer.scale)), inputs))
        return output
    if not isinstance(layer, torch.nn.Linear):
        output = layer(inputs)
        return output
    place = space.take(name, (len(inputs), layer.out_features), inputs)
    if layer.bias is None:
        return torch.mm(inputs, layer.weight.t(), out=place)
    return torch.addmm(layer.bias, inputs, layer.weight.t(), out=place)


def merged(*layers: torch.nn.Linear) -> torch.nn.Linear:
    """Make one layer of several, and let them use its weights too: nothing is in memory twice.

    Raises:
        AttributeError: Their weights are no plain matrices, but quantized, or only some have a bias.
    """
    if any(type(layer.weight) is not torch.nn.Parameter or not layer.weight.is_floating_point() for layer in layers):
        msg = "These layers have no plain weights."
        raise AttributeError(msg)
    ends = (0, *accumulate(layer.out_features for layer in layers))
    whole = torch.nn.Linear(layers[0].in_features, ends[-1], bias=layers[0].bias is not None, device="meta")
    whole.weight = torch.nn.Parameter(torch.cat([layer.weight for layer in layers]), requires_grad=False)
    biases: list[torch.Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    if biases and len(biases) < len(layers):
        msg = "Only some of these layers have a bias."
        raise AttributeError(msg)
    if biases:
        whole.bias = torch.nn.Parameter(torch.cat(biases), requires_grad=False)
    for layer, (start, end) in zip(layers, pairwise(ends), strict=True):
        layer.weight.data = whole.weight.data[start:end]
        if biases:
            layer.bias.data = whole.bias.data[start:end]
    return whole
