"""What an evaluation found out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flag_rerank_integrations.evaluation.bootstrap import paired_difference
from flag_rerank_integrations.evaluation.measures import values_by_query
from flag_rerank_integrations.evaluation.runs import Run

__all__ = ["Comparison", "Evaluation", "QueryValues", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure over all queries, before and after re-ranking; see `paired_difference`."""

    measure: str
    before: float
    after: float
    low: float
    """Lower end of the 95% interval of `after - before`."""
    high: float
    """Upper end of the 95% interval of `after - before`."""
    p_value: float
    """Two-sided: how often chance alone would give such a difference."""

    @property
    def difference(self) -> float:
        """How much larger the mean is after re-ranking."""
        return self.after - self.before


@dataclass(frozen=True, slots=True)
class QueryValues:
    """The measures of one query."""

    query_id: str
    query: str
    before: dict[str, float]
    """Values of the first stage, by measure."""
    after: dict[str, float]
    """Values after re-ranking, by measure."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that one evaluation found out."""

    name: str
    """Of the judged set."""
    top_k: int
    """Passages of each query that were re-ranked, at most."""
    comparisons: tuple[Comparison, ...]
    """One for each measure, in the order asked for."""
    per_query: tuple[QueryValues, ...]
    first_stage: Run
    """The whole first stage of the queries evaluated."""
    reranked: Run
    """The same passages: the first `top_k` by the model, the others behind them as they were."""
    pairs: int
    """Pairs of query and passage that were scored."""
    truncated_pairs: int | None
    """Those whose passage was not read to its end; None where a server does not tell."""
    seconds: float
    """Spent scoring."""
    notes: tuple[str, ...] = ()
    """What was left out or is odd about the data, in words."""

    @property
    def queries(self) -> int:
        """How many queries were evaluated."""
        return len(self.per_query)

    def comparison(self, measure: str) -> Comparison:
        """Return the comparison by one of the measures that were asked for.

        Raises:
            KeyError: This measure was not asked for.
        """
        for comparison in self.comparisons:
            if comparison.measure == measure:
                return comparison
        msg = f"{measure!r} is not among {', '.join(comparison.measure for comparison in self.comparisons)}"
        raise KeyError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values; rankings and single queries are left out."""
        return {
            "name": self.name,
            "queries": self.queries,
            "top_k": self.top_k,
            "pairs": self.pairs,
            "truncated_pairs": self.truncated_pairs,
            "seconds": self.seconds,
            "measures": [{**asdict(one), "difference": one.difference} for one in self.comparisons],
            "notes": list(self.notes),
        }


def compare(
    measures: Sequence[str],
    qrels: Mapping[str, Mapping[str, int]],
    before: Mapping[str, Sequence[str]],
    after: Mapping[str, Sequence[str]],
    seed: int = 0,
) -> tuple[tuple[Comparison, ...], dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Compare two rankings of the same queries.

    Args:
        measures: Names; see `values_by_query`.
        qrels: Grades by query id and passage id.
        before: Passage ids by query id, best first.
        after: The same of the other ranking.
        seed: Of the bootstrap.

    Returns:
        A comparison for each measure, and each measure's values by query before and after.
    """
    old, new = values_by_query(measures, qrels, before), values_by_query(measures, qrels, after)
    comparisons = []
    for name in measures:
        one, other = list(old[name].values()), list(new[name].values())
        found = paired_difference(one, other, seed=seed)
        means = sum(one) / len(one), sum(other) / len(other)
        comparisons.append(Comparison(name, *means, found.low, found.high, found.p_value))
    return tuple(comparisons), old, new
