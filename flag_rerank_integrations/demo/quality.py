"""How good a ranking is: nDCG@10, MRR and recall, before and after, as `flag-rerank eval` measures them."""

from __future__ import annotations

from collections.abc import Sequence

from flag_rerank_integrations.demo.judgements import JudgedQuery
from flag_rerank_integrations.evaluation import results
from flag_rerank_integrations.evaluation.measures import values_by_query
from flag_rerank_integrations.evaluation.results import Comparison

__all__ = ["Comparison", "compare"]


def compare(
    queries: Sequence[JudgedQuery], before: Sequence[Sequence[str]], after: Sequence[Sequence[str]], depth: int
) -> list[Comparison]:
    """Measure two rankings of the same candidates; see `paired_difference` for their intervals.

    Args:
        queries: Judged questions.
        before: Names, best first, for each question.
        after: The same candidates in their new order, for each question.
        depth: Candidates per question: recall is that of all of them.
    """
    names = [f"q{place}" for place in range(len(queries))]
    judged = {name: query.grades for name, query in zip(names, queries, strict=True)}
    measures = ("nDCG@10", "MRR", f"recall@{depth}")
    old, new = (
        values_by_query(measures, judged, dict(zip(names, rankings, strict=True))) for rankings in (before, after)
    )
    return list(results.compare(old, new))
