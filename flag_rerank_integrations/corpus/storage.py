"""Files wherever pyarrow finds them: local and shared directories, and object stores by their URI."""

from __future__ import annotations

import posixpath
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flag_rerank_integrations.errors import InputError

__all__ = ["Place", "place_of"]


@dataclass(frozen=True, slots=True)
class Place:
    """A path on one file system."""

    system: Any
    """A `pyarrow.fs.FileSystem`."""
    path: str

    def __truediv__(self, name: str) -> Place:
        """Return the place of a file in this directory."""
        return Place(self.system, posixpath.join(self.path, name))

    @property
    def size(self) -> int | None:
        """The file's size in bytes; None where there is no file."""
        information = self.system.get_file_info(self.path)
        return information.size if information.is_file else None

    def names(self) -> list[str]:
        """Return the names of the files in this directory, in order; none where there is no directory."""
        from pyarrow.fs import FileSelector

        found = self.system.get_file_info(FileSelector(self.path, allow_not_found=True))
        return sorted(information.base_name for information in found if information.is_file)

    def delete(self) -> None:
        """Delete the file, unless it is gone already."""
        try:
            self.system.delete_file(self.path)
        except FileNotFoundError:
            return

    def read(self, first: int = 0, end: int | None = None) -> bytes:
        """Return the file's bytes from `first` up to `end`."""
        with self.system.open_input_file(self.path) as file:
            file.seek(first)
            content: bytes = file.read() if end is None else file.read(max(0, end - first))
            return content

    def write(self, write: Callable[[Any], object]) -> None:
        """Have the file written whole or not at all: it gets its name only when it is complete.

        Args:
            write: Given an open binary stream.
        """
        directory, name = posixpath.split(self.path)
        # Readers of directories pass over names that begin with a dot.
        unfinished = posixpath.join(directory, f".{name}.{uuid.uuid4().hex}")
        try:
            with self.system.open_output_stream(unfinished) as stream:
                write(stream)
            self.system.move(unfinished, self.path)
        except BaseException:
            Place(self.system, unfinished).delete()
            raise


def place_of(path: str) -> Place:
    """Return the place that a path or a URI names.

    Raises:
        InputError: No file system is known for it.
    """
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem, LocalFileSystem

    if "://" not in path:
        return Place(LocalFileSystem(), Path(path).expanduser().resolve().as_posix())
    try:
        return Place(*FileSystem.from_uri(path))
    except (ArrowException, OSError, ValueError) as error:
        msg = f"{path!r} names no file system that pyarrow knows: {error}"
        raise InputError(msg) from error
