"""Requests to measure with, from files: queries that name their passages, or both apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from flag_rerank_integrations.bench.workload import Request, paired
from flag_rerank_integrations.cli import passages
from flag_rerank_integrations.errors import InputError

__all__ = ["read_requests"]

_WHOLE: Final = "passages"
"""The key of a line that holds a whole request."""


def read_requests(source: str, queries: str | None, encoding: str, size: int) -> list[Request]:
    """Read requests.

    Args:
        source: JSON lines, each an object with "query" and "passages" (a list of strings), or with "query" and a
            text, as `flag-rerank rank` reads them; or passages alone, a line of text or of JSON each.
        queries: The file with the queries, where `source` has passages alone.
        encoding: The bytes' encoding.
        size: How many passages a request gets, where queries and passages are apart.

    Raises:
        InputError: A file cannot be read; the message names the line. Or queries are missing, or there twice.
    """
    name, lines = passages.read_lines(source, encoding)
    if lines and _is_whole(lines[0][1]):
        found: Sequence[Request] = [_whole(name, number, line) for number, line in lines]
    else:
        texts = passages.read(source, encoding=encoding)
        if queries is not None:
            asked = [each.text for each in passages.read(queries, encoding=encoding)]
            return list(paired(asked, [each.text for each in texts], size))
        found = _grouped(name, texts)
    if queries is not None:
        msg = f"{name} has queries of its own: leave out --queries."
        raise InputError(msg)
    return list(found)


def _is_whole(line: str) -> bool:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and _WHOLE in value


def _whole(name: str, number: int, line: str) -> Request:
    """Read one line with a query and all its passages."""
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        msg = f"{name}, line {number}: not JSON ({error})"
        raise InputError(msg) from error
    query, texts = (value.get("query"), value.get(_WHOLE)) if isinstance(value, dict) else (None, None)
    if not isinstance(query, str) or not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        msg = f'{name}, line {number}: must be an object with "query", a string, and "passages", a list of strings'
        raise InputError(msg)
    return query, texts


def _grouped(name: str, texts: Sequence[passages.Passage]) -> list[Request]:
    """Collect the passages of each query, in the order in which the queries appear."""
    groups: dict[str, list[str]] = {}
    for each in texts:
        if each.query is None:
            msg = f"{name}, line {each.line}: the passage has no query; --queries FILE gives queries for all of them."
            raise InputError(msg)
        groups.setdefault(each.query, []).append(each.text)
    return list(groups.items())
