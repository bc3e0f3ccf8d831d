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
# So that what is computed stays near the core, in the product and while its input is rounded; in pieces not much
# smaller, for lanes that compute side by side share the interpreter.
_TOKENS_AT_A_TIME: Final = 1024
_NUMBERS_AT_A_TIME: Final = 2**18
_INT8: Final = torch.empty(0, dtype=torch.int8)
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
        self.weight: torch.nn.Parameter = torch.nn.Parameter(_packed(rounded), requires_grad=False)
        self.scale: torch.nn.Parameter = torch.nn.Parameter(scale, requires_grad=False)
        self.bias: torch.nn.Parameter | None = (
            None if bias is None else torch.nn.Parameter(bias.detach().float(), requires_grad=False)
        )

    @property
    def quantized(self) -> torch.Tensor:
        """The rounded weights, int8, shape (outputs, inputs)."""
        return self.weight.to_dense().t() if self.weight.is_mkldnn else self.weight

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
        rounded = _space.take("rounded", tuple(rows.shape), _INT8)
        scale = _space.take("scale", (len(rows), 1), rows)
        at_a_time = max(1, _NUMBERS_AT_A_TIME // rows.shape[1])
        for first in range(0, len(rows), at_a_time):
            some = slice(first, first + at_a_time)
            _round(rows[some], rounded[some], scale[some])
        product = _product(rounded, self.weight, self.scale)
        if self.bias is None:
            torch.mul(product, scale, out=place)
        else:
            torch.addcmul(self.bias, product, scale, out=place)


def _round(rows: torch.Tensor, rounded: torch.Tensor, scale: torch.Tensor) -> None:
    """Round rows to 8 bits, each by a scale of its own, shape (rows, 1)."""
    torch.amax(rows, 1, keepdim=True, out=scale)
    torch.maximum(scale, -rows.amin(1, keepdim=True), out=scale).div_(_FULL_RANGE).clamp_(min=_LEAST_SCALE)
    rounded.copy_(torch.div(rows, scale, out=_space.take("scaled", tuple(rows.shape), rows)).round_())


def _packed(weight: torch.Tensor) -> torch.Tensor:
    """Return weights as `_product` takes them: in oneDNN's order where torch can make it."""
    return torch.ops.onednn.qlinear_prepack(weight.contiguous(), None) if _has_scaled_product() else weight


def _product(rows: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the product of 8-bit factors, each column by its scale, in float32.

    Args:
        rows: Shape (rows, inputs).
        weight: Shape (outputs, inputs), as `_packed` left it.
        scale: Shape (outputs,).
    """
    if weight.is_mkldnn:
        return _scaled_product(rows, weight, scale)
    sums = _space.take("sums", (len(rows), len(scale)), _INT32)
    torch._int_mm(rows, weight.t(), out=sums)  # noqa: SLF001 - torch's only other 8-bit product
    return _space.take("product", tuple(sums.shape), scale).copy_(sums).mul_(scale)


def _scaled_product(rows: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Let oneDNN scale its sums as it writes them: a second pass would take a fifth of the time."""
    no_zero_points = torch.zeros(len(scale), dtype=torch.int32)
    product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
        rows, 1.0, 0, weight, scale, no_zero_points, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return product


@cache
def _has_scaled_product() -> bool:
    """Tell whether this build of torch has oneDNN's product, and computes what is asked for."""
    rows, weight = torch.arange(-8, 8, dtype=torch.int8).view(2, 8), torch.arange(24, dtype=torch.int8).view(3, 8)
    scale = torch.tensor([1.0, 0.5, 2.0])
    expected = rows.float() @ weight.float().t() * scale
    try:
        packed = torch.ops.onednn.qlinear_prepack(weight, None)
        return packed.is_mkldnn and torch.equal(_scaled_product(rows, packed, scale), expected)
    except (AttributeError, RuntimeError, TypeError):  # an operator for torch's own compiler, which may change
        return False


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
    rows = torch.full((32, 64), _FULL_RANGE, dtype=torch.int8)
    exact = _product(rows, _packed(rows), torch.ones(32)) == 64 * _FULL_RANGE**2
    return _FULL_RANGE if exact.all() else _SAFE_RANGE


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
