"""Judged retrieval sets in BEIR layout with a first-stage run, and how good a ranking of them is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from flag_rerank_integrations.errors import InputError
from flag_rerank_integrations.evaluation import JudgedSet, Run, paired_difference, read_run, values_by_query

__all__ = ["JudgedRequest", "difference_interval", "first_stage", "ndcg", "read", "spearman"]

_MEASURE: Final = "nDCG@10"


@dataclass(frozen=True, slots=True)
class JudgedRequest:
    """A query, its candidates in the first stage's order, and how relevant each is."""

    query: str
    passages: list[str]
    grades: list[float]
    best_grades: list[float]
    """Of all judged passages of the query, candidates or not, best first."""


def read(directory: Path, queries: int, depth: int) -> list[JudgedRequest]:
    """Read the first judged queries of a set with their first candidates.

    Args:
        directory: Has corpus.jsonl, queries.jsonl, qrels.tsv and a gzipped TREC run, `*.trec.gz`.
        queries: How many at most.
        depth: Candidates of each.

    Raises:
        InputError: A file is missing or wrong.
    """
    run = first_stage(directory)
    judged_set = JudgedSet.from_folder(directory)
    grades = judged_set.qrels
    judged = (query for query in run if any(grade > 0 for grade in grades.get(query, {}).values()))
    return [
        JudgedRequest(
            judged_set.queries[query],
            [judged_set.corpus[hit.passage_id] for hit in run[query][:depth]],
            [float(grades[query].get(hit.passage_id, 0)) for hit in run[query][:depth]],
            sorted(map(float, grades[query].values()), reverse=True),
        )
        for query in islice(judged, queries)
    ]


def first_stage(directory: Path) -> Run:
    """Read the run that lies in a set's folder.

    Raises:
        InputError: There is none, `*.trec.gz`, or it is wrong.
    """
    runs = sorted(directory.glob("*.trec.gz"))
    if not runs:
        msg = f"{directory} has no TREC run, *.trec.gz"
        raise InputError(msg)
    return read_run(runs[0])


def ndcg(request: JudgedRequest, scores: Sequence[float]) -> float:
    """Return nDCG@10 of the candidates in the order of their scores; linear gains, as trec_eval has them."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    candidates = {str(place): grade for place, grade in enumerate(request.grades)}
    others = Counter(request.best_grades) - Counter(request.grades)
    unseen = {f"not retrieved {place}": grade for place, grade in enumerate(others.elements())}
    qrels = {"query": {name: int(grade) for name, grade in {**candidates, **unseen}.items()}}
    return values_by_query([_MEASURE], qrels, {"query": [str(place) for place in order]})[_MEASURE]["query"]


def difference_interval(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of `after - before` and the ends of its 95% interval, by a paired bootstrap over queries."""
    found = paired_difference(before, after)
    return found.mean, found.low, found.high


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the correlation of ranks; ties share their mean rank."""
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    _, group, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[group]
    return ranks
