"""Linear layers in 8-bit integers, for CPUs: weights scaled by row, inputs scaled by token.

A token's scale depends on that token alone, so a score stays independent of whatever shares
its batch; one scale for the whole tensor, which dynamic quantization usually takes, would not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Final

import torch
from torch.nn.functional import linear

from flag_rerank_integrations.families.workspace import Workspace

__all__ = ["Int8Linear", "int8_gain", "quantize_linears"]

_FULL_RANGE: Final = 127
# Two products of an unsigned byte and 63 still fit the 16-bit sums of CPUs without VNNI.
_SAFE_RANGE: Final = 63
_LEAST_SCALE: Final = 1e-12
_TOKENS_AT_A_TIME: Final = 256  # so that what is computed stays in the cache of one core
_INT32: Final = torch.empty(0, dtype=torch.int32)
_space: Final = Workspace()


class Int8Linear(torch.nn.Module):
    """y = x W^T + b with both factors rounded to 8 bits and the sums exact in 32.

    Args:
        weight: Shape (outputs, inputs), floating.
        bias: Shape (outputs,), or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        scale = weight.detach().float().abs().amax(1).clamp_(min=_LEAST_SCALE) / weight_range()
        rounded = (weight.detach().float() / scale[:, None]).round_().to(torch.int8)
        self.quantized: torch.nn.Parameter = torch.nn.Parameter(rounded, requires_grad=False)
        self.scale: torch.nn.Parameter = torch.nn.Parameter(scale, requires_grad=False)
        self.bias: torch.nn.Parameter | None = (
            None if bias is None else torch.nn.Parameter(bias.detach().float(), requires_grad=False)
        )

    def forward(self, inputs: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Map (..., inputs) to (..., outputs) in float32.

        Args:
            inputs: Floating.
            out: Where to write, shape (rows, outputs); a new tensor where None.
        """
        rows = inputs.reshape(-1, inputs.shape[-1])
        outputs = rows.new_empty(len(rows), len(self.scale)) if out is None else out
        for first in range(0, len(rows), _TOKENS_AT_A_TIME):
            some = slice(first, first + _TOKENS_AT_A_TIME)
            self._multiply(rows[some], outputs[some])
        return outputs.view(*inputs.shape[:-1], -1)

    def _multiply(self, rows: torch.Tensor, place: torch.Tensor) -> None:
        """Compute some rows of the output in their place."""
        scale = torch.maximum(rows.amax(1), -rows.amin(1)).div_(_FULL_RANGE).clamp_(min=_LEAST_SCALE)[:, None]
        scaled = torch.div(rows, scale, out=_space.take("scaled", tuple(rows.shape), rows)).round_()
        rounded = _space.take("rounded", tuple(rows.shape), self.quantized).copy_(scaled)
        product = _space.take("product", tuple(place.shape), _INT32)
        torch._int_mm(rounded, self.quantized.t(), out=product)  # noqa: SLF001 - torch's only 8-bit product
        place.copy_(product).mul_(self.scale)
        if self.bias is None:
            place.mul_(scale)
        else:
            torch.addcmul(self.bias, place, scale, out=place)


def quantize_linears(module: torch.nn.Module) -> int:
    """Put `Int8Linear` in place of every linear layer under a module; return how many."""
    count = 0
    for name, child in module.named_children():
        if type(child) is torch.nn.Linear:
            setattr(module, name, Int8Linear(child.weight, child.bias))
            count += 1
        else:
            count += quantize_linears(child)
    return count


@cache
def weight_range() -> int:
    """Return the largest weight this CPU multiplies exactly: without VNNI, sums of pairs saturate at 16 bits."""
    left = torch.full((32, 64), _FULL_RANGE, dtype=torch.int8)
    right = torch.full((64, 32), _FULL_RANGE, dtype=torch.int8)
    exact = bool((torch._int_mm(left, right) == 64 * _FULL_RANGE**2).all())  # noqa: SLF001 - as above
    return _FULL_RANGE if exact else _SAFE_RANGE


def int8_gain(shapes: Iterable[tuple[int, int]]) -> float:
    """Return how many times as fast as float32 these layers of (outputs, inputs) are in 8 bits, here and now."""
    seconds = [0.0, 0.0]
    with torch.inference_mode():
        for outputs, inputs in shapes:
            rows, weight, bias = (
                torch.randn(_TOKENS_AT_A_TIME, inputs),
                torch.randn(outputs, inputs),
                torch.randn(outputs),
            )
            quantized = Int8Linear(weight, bias)
            seconds[0] += _shortest(partial(linear, rows, weight, bias))
            seconds[1] += _shortest(partial(quantized, rows))
    return seconds[0] / seconds[1]


def _shortest(call: Callable[[], object], times: int = 5) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)
