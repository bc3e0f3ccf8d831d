"""Judged retrieval sets in BEIR layout with a first-stage run, and how good a ranking of them is."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["JudgedRequest", "difference_interval", "ndcg", "read", "spearman"]

_DEPTH: Final = 10
_RESAMPLES: Final = 10_000


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
        OSError: A file is missing.
    """
    texts = {
        entry["_id"]: f"{entry.get('title', '')} {entry['text']}".strip()
        for entry in _lines(directory / "corpus.jsonl")
    }
    asked = {entry["_id"]: entry["text"] for entry in _lines(directory / "queries.jsonl")}
    grades: dict[str, dict[str, float]] = {}
    for line in (directory / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, passage, grade = line.split("\t")
        grades.setdefault(query, {})[passage] = float(grade)
    run: dict[str, list[str]] = {}
    with gzip.open(next(directory.glob("*.trec.gz")), "rt", encoding="utf-8") as file:
        for line in file:
            query, _, passage, *_ = line.split()
            run.setdefault(query, []).append(passage)
    judged = (query for query in run if any(grade > 0 for grade in grades.get(query, {}).values()))
    return [
        JudgedRequest(
            asked[query],
            [texts[passage] for passage in run[query][:depth]],
            [grades[query].get(passage, 0.0) for passage in run[query][:depth]],
            sorted(grades[query].values(), reverse=True),
        )
        for query in islice(judged, queries)
    ]


def ndcg(request: JudgedRequest, scores: Sequence[float]) -> float:
    """Return nDCG@10 of the candidates in the order of their scores; linear gains, as trec_eval has them."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    ideal = _gain(request.best_grades)
    return _gain([request.grades[i] for i in order]) / ideal if ideal else 0.0


def difference_interval(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of `after - before` and the ends of its 95% interval, by a paired bootstrap over queries."""
    differences = np.asarray(after) - np.asarray(before)
    chosen = np.random.default_rng(0).integers(0, len(differences), (_RESAMPLES, len(differences)))
    low, high = np.percentile(differences[chosen].mean(axis=1), [2.5, 97.5])
    return fmean(differences.tolist()), float(low), float(high)


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the correlation of ranks; ties share their mean rank."""
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    _, group, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[group]
    return ranks


def _gain(grades: Sequence[float]) -> float:
    return sum(max(0.0, grade) / math.log2(rank + 2) for rank, grade in enumerate(grades[:_DEPTH]))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
