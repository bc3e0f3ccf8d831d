"""Runs: what a retrieval stage found for each query, in the form that TREC gave them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from flag_rerank_integrations.errors import InputError
from flag_rerank_integrations.evaluation.text_lines import fields_of, numbered_lines

__all__ = ["Run", "ScoredPassage", "check_run_ids", "ordered", "read_run", "write_run"]


class ScoredPassage(NamedTuple):
    """One passage that was found."""

    passage_id: str
    score: float


Run = dict[str, list[ScoredPassage]]
"""What was found for each query id, best first."""

_COLUMNS: Final = "query id, Q0, passage id, rank, score, tag"
_FEWEST: Final = 5  # the tag may be missing
_BLANK: Final = re.compile(r"\s")


def read_run(path: str | Path) -> Run:
    """Read a TREC run, plain or gzipped.

    Args:
        path: Lines of query id, "Q0", passage id, rank, score and tag, separated by blanks or tabs. As in
            trec_eval the scores tell the order, and the column of ranks is not looked at; equal scores
            keep the file's order.

    Raises:
        InputError: The file cannot be read, or a line is not of this form; the message names both.
    """
    file = Path(path)
    found: Run = {}
    for number, line in numbered_lines(file):
        columns = fields_of(line)
        if len(columns) < _FEWEST:
            msg = f"{file}, line {number}: a line of a TREC run has six columns ({_COLUMNS}), not {len(columns)}"
            raise InputError(msg)
        score = _score(columns[4], f"{file}, line {number}")
        found.setdefault(columns[0], []).append(ScoredPassage(columns[2], score))
    if not found:
        msg = f"{file} holds no run: it is empty"
        raise InputError(msg)
    return {query: _sorted(passages) for query, passages in found.items()}


def ordered(found: Sequence[ScoredPassage]) -> list[ScoredPassage]:
    """Return what was found, best first, each passage once.

    Equal scores keep the order they came in (trec_eval orders them by id, backwards). A passage that
    was found more than once keeps its best place.
    """
    best: dict[str, ScoredPassage] = {}
    for passage in _sorted(found):
        best.setdefault(passage.passage_id, passage)
    return list(best.values())


def write_run(path: str | Path, run: Mapping[str, Sequence[ScoredPassage]], tag: str) -> None:
    """Write a TREC run from which every tool reads the same ranking.

    Tools sort a run by its scores, held in single precision by some, and order equal ones each in its
    own way. So a score that is not below the one before it is written as the next smaller number of
    single precision.

    Args:
        path: Where to.
        run: What was found for each query id, best first.
        tag: The run's name; white space in it becomes "-".

    Raises:
        InputError: An id has white space in it, which a TREC run cannot hold, or the file cannot be written.
    """
    check_run_ids(run)
    name = _BLANK.sub("-", tag) or "run"
    lines = (
        f"{query} Q0 {passage.passage_id} {rank} {score:.9g} {name}\n"
        for query, passages in run.items()
        for rank, (passage, score) in enumerate(zip(passages, _falling(passages), strict=True), 1)
    )
    try:
        with Path(path).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)
    except (OSError, UnicodeEncodeError) as error:
        msg = f"cannot write {path}: {getattr(error, 'strerror', None) or error}"
        raise InputError(msg) from error


def check_run_ids(run: Mapping[str, Sequence[ScoredPassage]]) -> None:
    """Refuse ids that a TREC run cannot hold.

    Raises:
        InputError: An id is empty or has white space in it.
    """
    for query, passages in run.items():
        for name in (query, *(passage.passage_id for passage in passages)):
            if not name or _BLANK.search(name):
                msg = f"a TREC run separates its columns by blanks, and cannot hold the id {name!r}"
                raise InputError(msg)


def _sorted(found: Sequence[ScoredPassage]) -> list[ScoredPassage]:
    return sorted(found, key=lambda passage: -passage.score)


def _falling(passages: Sequence[ScoredPassage]) -> list[float]:
    """Return single-precision scores, each smaller than the one before it."""
    import numpy as np

    scores: list[float] = []
    for passage in passages:
        score = np.float32(passage.score)
        if scores and not score < scores[-1]:
            score = np.nextafter(np.float32(scores[-1]), np.float32(-np.inf))
        scores.append(float(score))
    return scores


def _score(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        msg = f"{place}: a score is a finite number, not {text!r}"
        raise InputError(msg)
    return value
