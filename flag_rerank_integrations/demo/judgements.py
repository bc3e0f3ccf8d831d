"""Questions, and which docstrings answer them; `judgements.json` says how that was judged."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

__all__ = ["ANSWERS", "JudgedQuery", "known", "load"]

ANSWERS: Final = 2
"""The grade of a passage that answers the question; 1 is for one that helps."""


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """One question with its judged passages."""

    text: str
    grades: dict[str, int]
    """Grades by qualified name, 1 or 2; a name that is not there has grade 0."""


def load() -> list[JudgedQuery]:
    """Read all judged questions, in the file's order."""
    file = resources.files(__package__).joinpath("judgements.json")
    queries = json.loads(file.read_text(encoding="utf-8"))["queries"]
    return [JudgedQuery(query["query"], query["relevant"]) for query in queries]


def known(queries: Sequence[JudgedQuery], names: Collection[str]) -> tuple[list[JudgedQuery], int]:
    """Keep what can be asked of a corpus: judged names that it has, questions that it answers.

    Args:
        queries: Judged questions.
        names: The qualified names in the corpus.

    Returns:
        The questions that are left, with the judged names that exist, and how many were dropped
        because nothing in the corpus answers them.
    """
    kept = []
    for query in queries:
        grades = {name: grade for name, grade in query.grades.items() if name in names}
        if ANSWERS in grades.values():
            kept.append(JudgedQuery(query.text, grades))
    return kept, len(queries) - len(kept)
