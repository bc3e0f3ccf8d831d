"""How good a ranking is: nDCG@10, MRR and recall by `ir_measures`, and a bootstrap interval of a difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from flag_rerank_integrations.demo.judgements import JudgedQuery

__all__ = ["Comparison", "compare"]

_RESAMPLES: Final = 10_000
_INTERVAL: Final = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure over all questions, before and after re-ranking."""

    measure: str
    before: float
    after: float
    low: float
    """Lower end of the 95% interval of `after - before`."""
    high: float
    """Upper end of the 95% interval of `after - before`."""


def compare(
    queries: Sequence[JudgedQuery], before: Sequence[Sequence[str]], after: Sequence[Sequence[str]], depth: int
) -> list[Comparison]:
    """Measure two rankings of the same candidates.

    The interval is that of a paired bootstrap over questions (percentiles of 10,000 resamples,
    fixed seed): it says how far chance in the choice of questions could move the difference.

    Args:
        queries: Judged questions.
        before: Names, best first, for each question.
        after: The same candidates in their new order, for each question.
        depth: Candidates per question: recall is that of all of them.
    """
    old = _by_query(queries, before, depth)
    new = _by_query(queries, after, depth)
    return [_comparison(measure, old[measure], new[measure]) for measure in old]


def _by_query(queries: Sequence[JudgedQuery], rankings: Sequence[Sequence[str]], depth: int) -> dict[str, list[float]]:
    """Return each measure's values, one for each question."""
    import ir_measures
    from ir_measures import RR, R, nDCG

    judged = {f"q{i}": dict(query.grades) for i, query in enumerate(queries)}
    # Measured by rank: ties of a score would otherwise be broken by name.
    run = {
        f"q{i}": {name: float(len(ranking) - rank) for rank, name in enumerate(ranking)}
        for i, ranking in enumerate(rankings)
    }
    measures = {"nDCG@10": nDCG @ 10, "MRR": RR, f"recall@{depth}": R @ depth}
    values = {name: dict.fromkeys(judged, 0.0) for name in measures}
    names = {str(measure): name for name, measure in measures.items()}
    for metric in ir_measures.iter_calc(list(measures.values()), judged, run):
        values[names[str(metric.measure)]][metric.query_id] = float(metric.value)
    return {name: list(by_query.values()) for name, by_query in values.items()}


def _comparison(measure: str, before: Sequence[float], after: Sequence[float]) -> Comparison:
    difference = np.asarray(after) - np.asarray(before)
    sampled = np.random.default_rng(0).integers(len(difference), size=(_RESAMPLES, len(difference)))
    low, high = np.percentile(difference[sampled].mean(axis=1), _INTERVAL)
    return Comparison(measure, float(np.mean(before)), float(np.mean(after)), float(low), float(high))
