"""Watches which products with weights a forward pass makes."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["WeightProducts"]


class WeightProducts(TorchDispatchMode):
    """Records the shapes (rows, inputs, outputs) of all products with a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in {torch.ops.aten.addmm, torch.ops.aten.addmm_, torch.ops.aten.mm}:
            left, right = args[-2:]
            self.found.append((len(left), *right.shape))
        return func(*args, **kwargs or {})
