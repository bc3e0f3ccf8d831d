"""Activations computed in place."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch.nn import functional
from transformers import activations

from flag_rerank_integrations.families.workspace import Workspace

__all__ = ["in_place"]

_LINEAR: Final = 2 * math.sqrt(2 / math.pi)
_CUBIC: Final = 0.044715 * _LINEAR
# So many numbers stay in the cache of one core from one step to the next.
_NUMBERS_AT_A_TIME: Final = 2**17


def in_place(activation: Any, space: Workspace) -> Callable[[torch.Tensor], torch.Tensor]:  # noqa: ANN401 - a module of transformers or torch
    """Return a function that does what an activation does, overwriting its input where that can be.

    Args:
        activation: Of a model's layer.
        space: Where to compute what comes in between.
    """
    if getattr(activation, "act", None) is functional.gelu:
        return torch.ops.aten.gelu_
    if type(activation) is activations.GELUTanh and isinstance(activation.act, partial):
        return partial(_gelu_tanh, space)
    if isinstance(activation, torch.nn.SiLU | activations.SiLUActivation):
        return partial(functional.silu, inplace=True)
    return activation  # type: ignore[no-any-return]


def _gelu_tanh(space: Workspace, inputs: torch.Tensor) -> torch.Tensor:
    """GELU by its tanh formula, which is x * sigmoid(2 y), where tanh is of y: torch's tanh takes three times as long.

    Args:
        space: Has room for some rows.
        inputs: Shape (rows, features); overwritten.
    """
    at_a_time = max(1, _NUMBERS_AT_A_TIME // inputs.shape[1])
    linear = inputs.new_tensor(_LINEAR)
    for start in range(0, len(inputs), at_a_time):
        rows = inputs[start : start + at_a_time]
        weights = space.take("activation", tuple(rows.shape), rows)
        torch.addcmul(linear, rows, rows, value=_CUBIC, out=weights)
        rows.mul_(weights.mul_(rows).sigmoid_())
    return inputs
