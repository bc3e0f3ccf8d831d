"""Where the pairs lie that share one flat sequence, told to whatever runs inside a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import accumulate, groupby

import torch

__all__ = ["PackedLayout", "current_layout", "packed", "to_device"]


@dataclass(slots=True)
class PackedLayout:
    """Where each pair lies in the flat sequence.

    Pairs may share their beginning (`head`): it then lies once before their rests, and every
    rest sees it as if it stood right before it.
    """

    lengths: tuple[int, ...]
    """Tokens of each segment, in order: a pair, a shared head, or the rest of a pair behind one."""
    starts: tuple[int, ...]
    """Index of each segment's first token; one entry more than segments, the last is the total."""
    runs: tuple[tuple[int, int, int], ...]
    """Neighbours of equal length and head: (first token, how many segments, length of each)."""
    heads: tuple[tuple[int, int] | None, ...] = ()
    """For each segment the first token and the length of the head before it, or None."""
    run_heads: tuple[tuple[int, int] | None, ...] = ()
    """The same for each run."""
    answering: frozenset[int] = frozenset()
    """The segments that end a pair: all but the heads."""
    calls: int = 0
    """Attention calls so far: none in a forward pass means that the model ignores this function."""
    _on_device: dict[tuple[str, torch.device], torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, lengths: Sequence[int]) -> PackedLayout:
        """Lay pairs of these lengths end to end."""
        return cls._of_segments([(length, None, True) for length in lengths])

    @classmethod
    def sharing(cls, groups: Sequence[tuple[int, Sequence[int]]]) -> PackedLayout:
        """Lay groups of pairs end to end, each with a head of so many tokens and rests of these lengths."""
        segments: list[tuple[int, tuple[int, int] | None, bool]] = []
        place = 0
        for head, rests in groups:
            shared = (place, head) if head else None
            if shared:
                segments.append((head, None, False))
            segments.extend((rest, shared, True) for rest in rests)
            place += head + sum(rests)
        return cls._of_segments(segments)

    @classmethod
    def _of_segments(cls, segments: Sequence[tuple[int, tuple[int, int] | None, bool]]) -> PackedLayout:
        """Build from (length, head, whether it ends a pair) of each segment."""
        runs: list[tuple[int, int, int]] = []
        run_heads = []
        first = 0
        for (length, head, _), group in groupby(segments):
            count = sum(1 for _ in group)
            runs.append((first, count, length))
            run_heads.append(head)
            first += count * length
        lengths = tuple(length for length, _, _ in segments)
        return cls(
            lengths,
            (0, *accumulate(lengths)),
            tuple(runs),
            tuple(head for _, head, _ in segments),
            tuple(run_heads),
            frozenset(i for i, (_, _, ends) in enumerate(segments) if ends),
        )

    @property
    def tokens(self) -> int:
        """Tokens of the flat sequence."""
        return self.starts[-1]

    @property
    def shares(self) -> bool:
        """Whether any pairs share a head."""
        return any(self.run_heads)

    @property
    def longest(self) -> int:
        """Tokens of the longest segment."""
        return max(self.lengths)

    @property
    def seen_lengths(self) -> tuple[int, ...]:
        """How many tokens each segment's last token can see: its own and those of its head."""
        pairs = zip(self.lengths, self.heads, strict=True)
        return tuple(length + (head[1] if head else 0) for length, head in pairs)

    @property
    def attended(self) -> int:
        """How many products of a query and a key attention may need, for each head."""
        return sum(length * seen for length, seen in zip(self.lengths, self.seen_lengths, strict=True))

    def starts_on(self, device: torch.device) -> torch.Tensor:
        """Return `starts` as int32 on a device; copied there once, however many layers ask."""
        return self._kept("starts", device, lambda: self.starts)

    def seen_starts_on(self, device: torch.device) -> torch.Tensor:
        """Return where each segment's keys begin among `seen`, int32, shape (segments + 1,)."""
        return self._kept("seen starts", device, lambda: (0, *accumulate(self.seen_lengths)))

    def seen_on(self, device: torch.device) -> torch.Tensor:
        """Return the tokens that each segment sees, one segment after the other, int32."""
        return self._kept("seen", device, self._seen)

    def _seen(self) -> list[int]:
        seen: list[int] = []
        for start, length, head in zip(self.starts, self.lengths, self.heads, strict=False):
            if head:
                seen.extend(range(head[0], sum(head)))
            seen.extend(range(start, start + length))
        return seen

    def first_tokens(self, device: torch.device) -> torch.Tensor:
        """Return the index of each pair's first token, shape (pairs,); of pairs that share nothing."""
        return self.starts_on(device)[:-1]

    def last_tokens(self, device: torch.device) -> torch.Tensor:
        """Return the index of each pair's last token, shape (pairs,)."""
        return self._kept("last", device, lambda: [self.starts[i + 1] - 1 for i in sorted(self.answering)])

    def _kept(self, name: str, device: torch.device, make: Callable[[], Sequence[int]]) -> torch.Tensor:
        key = name, device
        if key not in self._on_device:
            self._on_device[key] = to_device(torch.tensor(make(), dtype=torch.int32), device)
        return self._on_device[key]


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
def packed(pairs: Sequence[int] | PackedLayout) -> Iterator[PackedLayout]:
    """Tell the attention function, for one forward pass in this thread, where pairs of these lengths lie."""
    layout = pairs if isinstance(pairs, PackedLayout) else PackedLayout.of(pairs)
    token = _layout.set(layout)
    try:
        yield layout
    finally:
        _layout.reset(token)
