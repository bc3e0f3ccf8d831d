"""Token compression: runs of a passage's hidden states become their means, query and prompt stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Parts", "compress"]


@dataclass(frozen=True, slots=True)
class Parts:
    """How many tokens each part of a pair has, in order."""

    head: int
    """Everything before the passage: special tokens, query, separator."""
    passage: int
    tail: int
    """Everything behind the passage: separator, prompt."""

    def __len__(self) -> int:
        """Return the length of the pair in tokens."""
        return self.head + self.passage + self.tail


def compress(hidden: Tensor, parts: Sequence[Parts], ratio: int) -> tuple[Tensor, list[Parts]]:
    """Average each passage's tokens in groups of `ratio`; a last, smaller group over its own count.

    As the lightweight reranker of FlagEmbedding 1.4.2 does between two layers (`token_compress`).

    Args:
        hidden: Pairs end to end, of shape (tokens, size).
        parts: Of each pair.
        ratio: Tokens that become one.

    Returns:
        The shorter pairs end to end, and their parts.
    """
    shorter = [Parts(part.head, -(-part.passage // ratio), part.tail) for part in parts]
    kept_from, kept_to, groups, means_to = _places(parts, shorter, ratio)
    output = hidden.new_empty(sum(map(len, shorter)), hidden.shape[1])
    device = hidden.device
    output[torch.from_numpy(kept_to).to(device)] = hidden[torch.from_numpy(kept_from).to(device)]
    members = torch.from_numpy(groups).to(device)
    real = (members >= 0).unsqueeze(-1)
    states = hidden[members.clamp(min=0)].float() * real
    output[torch.from_numpy(means_to).to(device)] = (states.sum(1) / real.sum(1)).to(hidden.dtype)
    return output, shorter


_Indices = npt.NDArray[np.int64]


def _places(
    parts: Sequence[Parts], shorter: Sequence[Parts], ratio: int
) -> tuple[_Indices, _Indices, _Indices, _Indices]:
    """Say which token goes where.

    Returns:
        Tokens that stay, and where they go; the members of each group, -1 where there are fewer, and where
        their mean goes.
    """
    kept_from, kept_to, groups, means_to = [], [], [], []
    start, new_start = 0, 0
    for old, new in zip(parts, shorter, strict=True):
        members = np.full(new.passage * ratio, -1)
        members[: old.passage] = np.arange(old.passage) + start + old.head
        groups.append(members.reshape(-1, ratio))
        means_to.append(np.arange(new.passage) + new_start + new.head)
        outside, new_outside = np.arange(len(old)), np.arange(len(new))
        kept_from.append(np.delete(outside, slice(old.head, old.head + old.passage)) + start)
        kept_to.append(np.delete(new_outside, slice(new.head, new.head + new.passage)) + new_start)
        start, new_start = start + len(old), new_start + len(new)
    return np.concatenate(kept_from), np.concatenate(kept_to), np.concatenate(groups), np.concatenate(means_to)
