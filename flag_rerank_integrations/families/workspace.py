"""Memory in which one forward pass after another computes."""

from __future__ import annotations

import math
import threading

import torch

__all__ = ["Workspace"]


class Workspace(threading.local):
    """Named buffers, kept from call to call, for each thread its own.

    A CPU's allocator gives large blocks back to the system as soon as they are free, and every page
    of a fresh one costs a fault when it is first written: a tenth to a fifth of a small model's
    forward pass. Accelerators have an allocator that keeps its memory; there blocks are made anew.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def __reduce__(self) -> tuple[type[Workspace], tuple[()]]:
        """Copy and pickle as an empty one: nothing in it outlives a call."""
        return Workspace, ()

    def take(self, name: str, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        """Return a tensor of this shape whose contents are arbitrary.

        Args:
            name: Whoever takes it again under this name overwrites it.
            shape: Any number of dimensions.
            like: Has the device and the data type.
        """
        if like.device.type != "cpu":
            return like.new_empty(shape)
        size, key = math.prod(shape), (name, like.dtype)
        if key not in self._buffers or len(self._buffers[key]) < size:
            self._buffers.pop(key, None)  # first, so that old and new are never there at once
            self._buffers[key] = like.new_empty(size)
        return self._buffers[key][:size].view(shape)
