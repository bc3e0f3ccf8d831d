"""What every command writes: lines that any locale can take, JSON, and one-line complaints."""

from __future__ import annotations

import json
import re
import shutil
import sys
import unicodedata
from typing import Any, Final

__all__ = ["complain", "cut", "is_terminal", "one_line", "prepare_streams", "room", "write_json"]

# Control characters, which a terminal would obey, and lone surrogates, which no encoding takes.
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


def prepare_streams() -> None:
    """Let text be written that the locale's encoding lacks: it shows as an escape, not as a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def complain(message: str) -> None:
    """Write one line to standard error, the program's name first."""
    print(f"flag-rerank: {one_line(message)}", file=sys.stderr)


def write_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write one line of JSON; where the encoding is not UTF-8, in ASCII."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf8")
    line = json.dumps(value, ensure_ascii=not utf8, allow_nan=False)
    # A lone surrogate can only be written as an escape, which is what JSON calls it as well.
    print(line if utf8 and _is_encodable(line) else json.dumps(value, allow_nan=False))


def is_terminal(stream: object) -> bool:
    """Return whether someone watches the stream."""
    return bool(getattr(stream, "isatty", bool)())


def one_line(text: str) -> str:
    """Return a text on one line, without control characters."""
    return " ".join(_UNPRINTABLE.sub(" ", text).split())


def room(taken: int) -> int | None:
    """Return the columns left of the terminal's width; None where output is not shown on one."""
    return max(shutil.get_terminal_size().columns - taken, 10) if is_terminal(sys.stdout) else None


def cut(text: str, columns: int | None) -> str:
    """Return as much of a text as fits; a Chinese character takes two columns. None is any width."""
    if columns is None or sum(map(_width, text)) <= columns:
        return text
    kept, used = [], 1  # one column for the dots
    for character in text:
        used += _width(character)
        if used > columns:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "FW" else 1


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
