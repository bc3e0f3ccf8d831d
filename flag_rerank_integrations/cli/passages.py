"""Passages from a file or standard input: a line of text each, or a line of JSON each."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flag_rerank_integrations.errors import InputError

__all__ = ["FORMATS", "STDIN", "TEXT_KEYS", "Passage", "read", "read_lines"]

STDIN: Final = "-"
FORMATS: Final = ("auto", "text", "jsonl")
TEXT_KEYS: Final = ("text", "passage", "content", "page_content")
_JSON_SUFFIXES: Final = frozenset({".jsonl", ".ndjson", ".json"})


@dataclass(frozen=True, slots=True)
class Passage:
    """One passage that was read."""

    text: str
    line: int
    """The line it stood on, from 1."""
    query: str | None = None
    """The query that the line names."""
    record: dict[str, Any] | None = None
    """The whole JSON object, where it was one."""


def read(source: str, file_format: str = "auto", encoding: str = "utf-8") -> list[Passage]:
    """Read all passages; blank lines are skipped.

    Args:
        source: A file's path, or "-" for standard input.
        file_format: "text", "jsonl", or "auto": JSON lines where the file's name says so
            (.jsonl, .ndjson, .json) or the first line is a JSON object, text otherwise.
        encoding: The bytes' encoding; a byte order mark is skipped.

    Raises:
        InputError: It cannot be read, decoded or parsed; the message names the line.
    """
    name, lines = read_lines(source, encoding)
    if file_format == "jsonl" or (file_format == "auto" and _is_jsonl(source, lines)):
        return [_from_json(name, number, line) for number, line in lines]
    return [Passage(line, number) for number, line in lines]


def read_lines(source: str, encoding: str = "utf-8") -> tuple[str, list[tuple[int, str]]]:
    """Return the source's name for messages, and its lines that are not blank, with their numbers from 1.

    Raises:
        InputError: It cannot be read or decoded.
    """
    name = "standard input" if source == STDIN else source
    return name, [(number, line) for number, line in _lines(_bytes(source, name), name, encoding) if line.strip()]


def _bytes(source: str, name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if source == STDIN else Path(source).read_bytes()
    except (OSError, ValueError, AttributeError) as error:  # no such file; a NUL in its name; no standard input at all
        reason = getattr(error, "strerror", None) or str(error)
        msg = f"cannot read {name}: {reason}"
        raise InputError(msg) from error


def _lines(content: bytes, name: str, encoding: str) -> Iterator[tuple[int, str]]:
    """Yield numbered lines, ended by LF or CR LF and nothing else."""
    try:
        # The other marks (of UTF-16, of UTF-32) belong to their codecs.
        codec = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
        text = content.decode(codec)
    except LookupError as error:
        msg = f"there is no encoding {encoding!r}"
        raise InputError(msg) from error
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        msg = f"{name}, line {number}: not {encoding} ({error.reason}); --encoding says what it is, as in gb18030"
        raise InputError(msg) from error
    for number, line in enumerate(text.split("\n"), 1):
        yield number, line.removesuffix("\r")


def _is_jsonl(source: str, lines: list[tuple[int, str]]) -> bool:
    if source != STDIN and Path(source).suffix.lower() in _JSON_SUFFIXES:
        return True
    if not lines or not lines[0][1].lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(lines[0][1]), dict)
    except ValueError:
        return False


def _from_json(name: str, number: int, line: str) -> Passage:
    """Read one line of JSON: a string, or an object with the text under one of `TEXT_KEYS`."""
    place = f"{name}, line {number}"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        msg = f"{place}: not JSON ({reason}); there must be one JSON value a line"
        raise InputError(msg) from error
    if isinstance(value, str):
        return Passage(value, number)
    if not isinstance(value, dict):
        msg = f"{place}: a passage is a string or an object, not {_kind(value)}"
        raise InputError(msg)
    key = next((key for key in TEXT_KEYS if key in value), None)
    if key is None:
        msg = f"{place}: the object has none of the keys {', '.join(TEXT_KEYS)}"
        raise InputError(msg)
    for checked in (key, "query"):
        if not isinstance(value.get(checked, ""), str):
            msg = f"{place}: {checked!r} must be a string, not {_kind(value[checked])}"
            raise InputError(msg)
    return Passage(value[key], number, value.get("query"), value)


def _kind(value: object) -> str:
    """Name a JSON value's type as JSON does."""
    names = {"list": "an array", "dict": "an object", "str": "a string", "bool": "a boolean", "NoneType": "null"}
    return names.get(type(value).__name__, "a number")
