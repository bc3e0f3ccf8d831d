"""Which pairs share a forward pass: pure functions over lengths in tokens."""

from __future__ import annotations

from collections.abc import Sequence

from flag_rerank_integrations.pairs import Layout

__all__ = ["computed_tokens", "plan"]


def computed_tokens(lengths: Sequence[int], layout: Layout) -> int:
    """Return how many token positions one batch of these lengths computes."""
    if not lengths:
        return 0
    return max(lengths) * len(lengths) if layout == "padded" else sum(lengths)


def plan(lengths: Sequence[int], budget: int, layout: Layout) -> list[list[int]]:
    """Group pairs into batches of at most `budget` token positions, longest first.

    Sorting by length keeps padding small and equal lengths together; the longest batch comes
    first so that memory which does not suffice shows at once. A pair longer than the budget is
    a batch of its own.

    Args:
        lengths: Tokens of each pair.
        budget: Most token positions computed in one forward pass, padding included.
        layout: "packed", "padded" or "single".

    Returns:
        Batches of indices into `lengths`; every index occurs exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    used = budget + 1
    for index in order:
        # In descending order the first pair of a padded batch is its longest: all are padded to it.
        cost = lengths[batches[-1][0]] if layout == "padded" and batches else lengths[index]
        if used + cost > budget:
            batches.append([])
            used, cost = 0, lengths[index]
        batches[-1].append(index)
        used += cost
    return batches
