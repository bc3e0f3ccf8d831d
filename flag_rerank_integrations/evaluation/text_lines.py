"""Numbered lines of a text file, plain or gzipped."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from flag_rerank_integrations.errors import InputError

__all__ = ["fields_of", "numbered_lines"]

_GZIP_MAGIC: Final = b"\x1f\x8b"
# Not `str.split`, which also splits at the spaces of other scripts, and those may be part of an id.
_BLANKS: Final = re.compile(r"[ \t]+")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each line that is not blank with its number, from 1; a byte order mark is skipped.

    Args:
        path: A UTF-8 text file, gzipped or not, whatever its name says.

    Raises:
        InputError: It cannot be read or decoded; the message names the file and the line.
    """
    number = 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(_unpacked(file), 1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        msg = f"{path}, line {number}: not UTF-8 ({error.reason})"
        raise InputError(msg) from error
    except (OSError, EOFError, zlib.error, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        msg = f"cannot read {path}{f' beyond line {number}' if number else ''}: {reason}"
        raise InputError(msg) from error


def fields_of(line: str) -> list[str]:
    """Return a line's columns, which are separated by blanks or tabs."""
    return _BLANKS.split(line.strip(" \t"))


def _unpacked(file: IO[bytes]) -> IO[bytes]:
    packed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    file.seek(0)
    # A buffer of its own, for gzip's lines are slow without one.
    return io.BufferedReader(gzip.GzipFile(fileobj=file)) if packed else file  # type: ignore[type-var]
