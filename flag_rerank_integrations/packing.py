"""Where the pairs lie that share one flat sequence, told to whatever runs inside a forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import accumulate, groupby

import torch

__all__ = ["PackedLayout", "current_layout", "packed", "to_device"]


@dataclass(slots=True)
class PackedLayout:
    """Where each pair lies in the flat sequence."""

    lengths: tuple[int, ...]
    """Tokens of each pair, in order."""
    starts: tuple[int, ...]
    """Index of each pair's first token; one entry more than pairs, the last is the total."""
    runs: tuple[tuple[int, int, int], ...]
    """Neighbours of equal length: (first token, how many pairs, length of each)."""
    calls: int = 0
    """Attention calls so far: none in a forward pass means that the model ignores this function."""
    _on_device: dict[torch.device, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, lengths: Sequence[int]) -> PackedLayout:
        """Lay pairs of these lengths end to end."""
        starts = (0, *accumulate(lengths))
        runs: list[tuple[int, int, int]] = []
        first = 0
        for length, group in groupby(lengths):
            count = sum(1 for _ in group)
            runs.append((first, count, length))
            first += count * length
        return cls(tuple(lengths), starts, tuple(runs))

    @property
    def longest(self) -> int:
        """Tokens of the longest pair."""
        return max(self.lengths)

    def starts_on(self, device: torch.device) -> torch.Tensor:
        """Return `starts` as int32 on a device; copied there once, however many layers ask."""
        if device not in self._on_device:
            self._on_device[device] = to_device(torch.tensor(self.starts, dtype=torch.int32), device)
        return self._on_device[device]

    def first_tokens(self, device: torch.device) -> torch.Tensor:
        """Return the index of each pair's first token, shape (pairs,)."""
        return self.starts_on(device)[:-1]

    def last_tokens(self, device: torch.device) -> torch.Tensor:
        """Return the index of each pair's last token, shape (pairs,)."""
        return self.starts_on(device)[1:] - 1


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy from host memory; to a CUDA device from pinned memory, so that the host need not wait."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


_layout: ContextVar[PackedLayout | None] = ContextVar("packed_layout", default=None)


def current_layout() -> PackedLayout | None:
    """Return the layout of the packed forward pass that runs in this thread, if any."""
    return _layout.get()


@contextmanager
def packed(lengths: Sequence[int]) -> Iterator[PackedLayout]:
    """Tell the attention function, for one forward pass in this thread, where the pairs lie."""
    layout = PackedLayout.of(lengths)
    token = _layout.set(layout)
    try:
        yield layout
    finally:
        _layout.reset(token)
