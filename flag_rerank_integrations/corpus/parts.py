"""Cutting a corpus into parts that are read, ranked and written one by one: JSON lines by bytes, Parquet by rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flag_rerank_integrations.corpus.storage import Place, place_of
from flag_rerank_integrations.errors import InputError

__all__ = ["Part", "find_files", "plan", "read_lines", "read_table", "write_lines", "write_table"]

_LINES: Final = (".jsonl", ".ndjson")
_TABLES: Final = (".parquet", ".pq")
_READ_AHEAD: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Part:
    """A run of rows of one file, and the file that they are written to."""

    file: int
    """Which of the corpus's files."""
    output: str
    """The output's name in its directory; in order of the parts."""
    first: int
    """The first byte, or the first row of the row group."""
    end: int
    """Behind the last byte or row. A line belongs to the part in which it begins."""
    row_group: int | None = None
    """None for JSON lines."""


def find_files(inputs: Sequence[str]) -> list[Place]:
    """Return the files that inputs name; a directory stands for its JSON lines and Parquet files.

    Raises:
        InputError: One of them does not exist or is neither, or there is none at all.
    """
    found: list[Place] = []
    for name in inputs:
        place = place_of(name)
        if place.size is None:
            files = [place / file for file in place.names() if _is_readable(file)]
            if not files:
                msg = f"{name!r} is no file, and no directory with files in {', '.join(_LINES + _TABLES)}."
                raise InputError(msg)
            found += files
        elif _is_readable(name):
            found.append(place)
        else:
            msg = f"{name!r} ends in none of {', '.join(_LINES + _TABLES)}."
            raise InputError(msg)
    if not found:
        msg = "There is no input file."
        raise InputError(msg)
    return found


def plan(files: Sequence[Place], part_bytes: int) -> list[Part]:
    """Cut files into parts of about this many bytes of text each; the same files give the same parts."""
    spans = [
        (number, *span)
        for number, place in enumerate(files)
        for span in (_row_spans(place, part_bytes) if place.path.endswith(_TABLES) else _byte_spans(place, part_bytes))
    ]
    digits = max(5, len(str(len(spans))))
    return [
        Part(file, f"part-{number:0{digits}}{_suffix(files[file])}", first, end, group)
        for number, (file, first, end, group) in enumerate(spans)
    ]


def read_lines(place: Place, part: Part) -> Iterator[str]:
    """Yield the lines that begin in a part, without blank ones."""
    content = place.read(max(0, part.first - 1), part.end)
    if part.first:  # what stands before the first newline began in an earlier part
        _, _, content = content.partition(b"\n")
    if content and not content.endswith(b"\n"):
        content += _rest_of_line(place, part.end)
    for line in content.decode("utf-8-sig", "replace").split("\n"):
        if line.strip():
            yield line


def _rest_of_line(place: Place, position: int) -> bytes:
    size, rest = place.size or 0, b""
    while position < size and not rest.endswith(b"\n"):
        more = place.read(position, position + _READ_AHEAD)
        position += len(more)
        line, newline, _ = more.partition(b"\n")
        rest += line + newline
    return rest


def write_lines(place: Place, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as JSON lines; a lone surrogate stays the escape that it came as."""
    text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    place.write(lambda stream: stream.write(text.encode("utf-8", "backslashreplace")))


def read_table(place: Place, part: Part) -> Any:  # noqa: ANN401 - a pyarrow.Table
    """Return the rows of a part as a `pyarrow.Table`."""
    from pyarrow import parquet

    with place.system.open_input_file(place.path) as source, parquet.ParquetFile(source) as file:
        return file.read_row_group(part.row_group).slice(part.first, part.end - part.first)


def write_table(place: Place, table: Any) -> None:  # noqa: ANN401 - a pyarrow.Table
    """Write a `pyarrow.Table` as Parquet."""
    from pyarrow import parquet

    place.write(lambda stream: parquet.write_table(table, stream))


def _is_readable(name: str) -> bool:
    return name.endswith(_LINES + _TABLES) and not name.startswith((".", "_"))


def _suffix(place: Place) -> str:
    return ".parquet" if place.path.endswith(_TABLES) else ".jsonl"


def _byte_spans(place: Place, part_bytes: int) -> Iterator[tuple[int, int, int | None]]:
    size = place.size or 0
    for first in range(0, size, part_bytes):
        yield first, min(first + part_bytes, size), None


def _row_spans(place: Place, part_bytes: int) -> Iterator[tuple[int, int, int | None]]:
    """Cut each row group into parts: groups are written to be read whole, and may be large."""
    from pyarrow import ArrowException, parquet

    try:
        with place.system.open_input_file(place.path) as source:
            metadata = parquet.read_metadata(source)
    except ArrowException as error:
        msg = f"{place.path!r} is no Parquet file: {error}"
        raise InputError(msg) from error
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        rows = max(1, group.num_rows * part_bytes // max(1, group.total_byte_size))
        for first in range(0, group.num_rows, rows):
            yield first, min(first + rows, group.num_rows), number
