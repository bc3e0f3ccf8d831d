"""Texts with ids, of passages or queries: JSON lines as BEIR has them, or id and text separated by a tab."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from flag_rerank_integrations.errors import InputError
from flag_rerank_integrations.evaluation.text_lines import numbered_lines

__all__ = ["read_texts"]

_ID_KEYS: Final = ("_id", "id")
_TSV_SUFFIXES: Final = frozenset({".tsv", ".tsv.gz"})


def read_texts(path: str | Path, only: Collection[str] | None = None) -> dict[str, str]:
    """Read texts by id, plain or gzipped.

    Args:
        path: JSON lines with "_id" (or "id"), "text" and, if there is one, "title", which is put before
            the text as BEIR does; or, where the name ends in .tsv, lines of id, tab and text.
        only: Ids of the texts to keep; None keeps all.

    Raises:
        InputError: The file cannot be read, a line is not of this form, or two different texts have one
            id; the message names the file and the line.
    """
    file = Path(path)
    read_line = _from_tsv if "".join(file.suffixes[-2:]).lower().endswith(tuple(_TSV_SUFFIXES)) else _from_json
    texts: dict[str, str] = {}
    kept = None if only is None else frozenset(only)
    for number, line in numbered_lines(file):
        name, text = read_line(line, f"{file}, line {number}")
        if kept is not None and name not in kept:
            continue
        if texts.setdefault(name, text) != text:
            msg = f"{file}, line {number}: {name!r} has another text further up"
            raise InputError(msg)
    return texts


def _from_tsv(line: str, place: str) -> tuple[str, str]:
    name, tab, text = line.partition("\t")
    if not tab or not name.strip():
        msg = f"{place}: a line is an id, a tab and a text"
        raise InputError(msg)
    return name.strip(), text.strip()


def _from_json(line: str, place: str) -> tuple[str, str]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        msg = f"{place}: not JSON ({reason})"
        raise InputError(msg) from error
    if not isinstance(entry, dict):
        msg = f"{place}: an entry is a JSON object with the keys '_id' and 'text'"
        raise InputError(msg)
    name = next((entry[key] for key in _ID_KEYS if key in entry), None)
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        msg = f"{place}: '_id' must be a string, not {json.dumps(name)}"
        raise InputError(msg)
    text = f"{_string(entry, 'title', place)} {_string(entry, 'text', place, needed=True)}".strip()
    return str(name), text


def _string(entry: dict[str, Any], key: str, place: str, *, needed: bool = False) -> str:
    value = entry.get(key)
    if value is None and not (needed and key not in entry):
        return ""
    if not isinstance(value, str):
        found = "missing" if key not in entry else f"not {json.dumps(value)[:60]}"
        msg = f"{place}: {key!r} must be a string, {'and is ' if key not in entry else ''}{found}"
        raise InputError(msg)
    return value
