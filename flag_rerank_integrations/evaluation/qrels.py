"""Judgements: which passages are relevant for a query, and how much."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from flag_rerank_integrations.errors import InputError
from flag_rerank_integrations.evaluation.text_lines import fields_of, numbered_lines

__all__ = ["Qrels", "read_qrels"]

Qrels = dict[str, dict[str, int]]
"""Grades by query id and passage id; a grade above 0 is relevant."""

_BEIR_COLUMNS: Final = 3
_TREC_COLUMNS: Final = 4


def read_qrels(path: str | Path) -> Qrels:
    """Read judgements, plain or gzipped.

    Args:
        path: A line each: three columns as BEIR has them (query id, passage id, grade; a first line that
            names them is skipped), or four as TREC has them (query id, iteration, passage id, grade).

    Raises:
        InputError: The file cannot be read, a line is of neither form, a grade is no whole number, or a
            passage has two grades for one query; the message names the file and the line.
    """
    file = Path(path)
    qrels: Qrels = {}
    first = True
    for number, line in numbered_lines(file):
        query, passage, grade = _columns(line, f"{file}, line {number}")
        if first and not _is_number(grade):  # the line that names the columns
            first = False
            continue
        first = False
        value = _grade(grade, f"{file}, line {number}")
        if qrels.setdefault(query, {}).setdefault(passage, value) != value:
            msg = (
                f"{file}, line {number}: passage {passage!r} of query {query!r} has grade {value} here and "
                f"{qrels[query][passage]} further up"
            )
            raise InputError(msg)
    if not qrels:
        msg = f"{file} holds no judgements"
        raise InputError(msg)
    return qrels


def _columns(line: str, place: str) -> tuple[str, str, str]:
    """Return query id, passage id and grade; tabs separate columns before blanks do, for ids may have blanks."""
    columns = [column.strip() for column in line.split("\t")]
    if len(columns) not in (_BEIR_COLUMNS, _TREC_COLUMNS):
        columns = fields_of(line)
    if len(columns) not in (_BEIR_COLUMNS, _TREC_COLUMNS) or not all(columns):
        msg = (
            f"{place}: judgements have three columns (query id, passage id, grade) or four (query id, iteration, "
            f"passage id, grade), not {len(columns)}"
        )
        raise InputError(msg)
    return columns[0], columns[-2], columns[-1]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _grade(text: str, place: str) -> int:
    value = float(text) if _is_number(text) else float("nan")
    if not value.is_integer():
        msg = f"{place}: a grade is a whole number, not {text!r}"
        raise InputError(msg)
    return int(value)
