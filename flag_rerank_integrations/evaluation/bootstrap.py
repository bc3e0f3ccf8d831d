"""What chance could make of a difference: the paired bootstrap over queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["RESAMPLES", "Difference", "paired_difference"]

RESAMPLES: Final = 10_000
_INTERVAL: Final = (2.5, 97.5)
_AT_A_TIME: Final = 1 << 20  # numbers drawn at once: some megabytes
_ROUNDING: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference between two rankings of the same queries."""

    mean: float
    low: float
    """Lower end of the 95% interval of the mean."""
    high: float
    """Upper end of the 95% interval of the mean."""
    p_value: float
    """How often chance alone would give a difference at least as large, up or down."""


def paired_difference(
    before: Sequence[float], after: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Return the mean of `after - before` with its interval and p-value, by a paired bootstrap.

    Queries are drawn with replacement, each with both of its values, as many as there are. The interval
    holds the middle 95% of the means of such draws (percentile interval: Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, section 13.3). The p-value is two-sided and that of the shift
    method (ibid., section 16.4; for retrieval measures Smucker, Allan and Carterette, CIKM 2007): the share
    of draws whose mean lies at least as far from the mean observed as that lies from 0, with the
    observed one counted among them (Davison and Hinkley, Bootstrap Methods and their Application, 1997,
    section 4.2), so that it is never 0. Both speak of other queries of the same kind, and of nothing else; with
    fewer than some 30 queries they promise too much.

    Args:
        before: A value for each query.
        after: The other value for each query, in the same order.
        resamples: How many draws.
        seed: Of the draws: the same one gives the same result.

    Raises:
        ValueError: There are no queries, or not as many values on both sides.
    """
    import numpy as np

    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    if not differences.size:
        msg = "There are no queries to compare."
        raise ValueError(msg)
    generator = np.random.default_rng(seed)
    count = len(differences)
    rows = max(1, _AT_A_TIME // count)
    means = np.concatenate(
        [
            differences[generator.integers(count, size=(min(rows, resamples - start), count))].mean(axis=1)
            for start in range(0, resamples, rows)
        ]
    )
    mean = differences.mean()
    low, high = np.percentile(means, _INTERVAL)
    beyond = int(np.count_nonzero(np.abs(means - mean) >= abs(mean) - _ROUNDING))
    return Difference(float(mean), float(low), float(high), (1 + beyond) / (1 + resamples))
