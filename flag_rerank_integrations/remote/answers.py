"""What servers answer: scores that are complete and finite, or an error; and why they refuse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from flag_rerank_integrations.errors import WorkerError
from flag_rerank_integrations.remote.forms import Form

__all__ = ["reason_in", "scores_in"]

_REASON_KEYS: Final = ("error", "message", "detail", "msg")
_REASON_CHARACTERS: Final = 300


def scores_in(answer: object, form: Form, count: int, *, unit_interval: bool) -> list[float]:
    """Read the scores of one request, in the order of its passages.

    Args:
        answer: The answer, decoded.
        form: Where the scores are.
        count: How many passages were sent.
        unit_interval: Whether scores must lie in 0 to 1.

    Raises:
        WorkerError: A score is missing, doubled, not finite, or outside that interval.
    """
    scores: dict[int, float] = {}
    for entry in _entries(answer, form):
        index, score = _entry(entry, form.score_key)
        if not 0 <= index < count:
            _refuse(f"index {index} of {count} passages")
        if index in scores:
            _refuse(f"index {index} stands there twice")
        if unit_interval and not 0 <= score <= 1:
            _refuse(f"a score of {score} is outside 0 to 1, so these are no normalized scores: try normalize=None")
        scores[index] = score
    if len(scores) != count:
        _refuse(f"it has {len(scores)} scores for {count} passages")
    return [scores[index] for index in range(count)]


def reason_in(answer: object) -> str:
    """Find what a server says of a refusal, in the shapes that servers use; on one line, and not all of a long one."""
    text = " ".join(_reason(answer).split())
    return text if len(text) <= _REASON_CHARACTERS else f"{text[:_REASON_CHARACTERS]}…"


def _entries(answer: object, form: Form) -> Sequence[Any]:
    entries = answer
    if form.entries_key is not None:
        entries = answer.get(form.entries_key) if isinstance(answer, dict) else None
    if not isinstance(entries, list):
        where = "" if form.entries_key is None else f" under {form.entries_key!r}"
        _refuse(f"there is no list of scores{where}, as form={form.name!r} has it")
    return entries


def _entry(entry: object, score_key: str) -> tuple[int, float]:
    index, score = (entry.get("index"), entry.get(score_key)) if isinstance(entry, dict) else (None, None)
    if isinstance(index, bool) or not isinstance(index, int):
        _refuse("an entry has no index")
    if isinstance(score, bool) or not isinstance(score, int | float):
        _refuse(f"entry {index} has no number as its {score_key!r}")
    try:
        score = float(score)
    except OverflowError:  # JSON bounds no integer
        score = math.inf
    if not math.isfinite(score):
        _refuse(f"the score of passage {index} is {score}")
    return index, score


def _reason(value: object) -> str:
    if isinstance(value, dict):
        return next((_reason(value[key]) for key in _REASON_KEYS if value.get(key)), "")
    if isinstance(value, list):
        return _reason(value[0]) if value else ""
    return value if isinstance(value, str) else ""


def _refuse(what: str) -> NoReturn:
    msg = f"The server's answer cannot be used: {what}."
    raise WorkerError(msg)
