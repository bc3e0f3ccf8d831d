"""The demo's passages: docstrings of this Python's own standard library, read from its source files."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["MAX_CHARACTERS", "Entry", "harvest"]

MAX_CHARACTERS: Final = 400
"""A docstring's opening paragraphs are kept up to about this many characters."""

# Tests, bundled programs, generated tables, code that is not the library's own, and lib2to3 and distutils,
# which later versions dropped: without them the corpora of two versions are close.
_LEFT_OUT: Final = frozenset(
    {
        "__phello__",
        "dist-packages",
        "distutils",
        "encodings",
        "ensurepip",
        "idlelib",
        "lib-dynload",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    }
)
# Private modules that hold the Python source, and so the docstrings, of a public one.
_PUBLIC_NAME: Final = {
    "_collections_abc": "collections.abc",
    "_pydatetime": "datetime",
    "_pydecimal": "decimal",
    "_pyio": "io",
    "concurrent.futures._base": "concurrent.futures",
    "pathlib._local": "pathlib",
}

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Entry:
    """One documented module, class or function."""

    name: str
    """The qualified name, such as "shutil.rmtree"."""
    text: str
    """The name and the docstring's opening paragraphs."""


def harvest(root: Path | None = None) -> list[Entry]:
    """Collect the docstrings of every public module, class, function and method, sorted by name.

    Files are parsed, never imported, so nothing of theirs runs.

    Args:
        root: The library's directory; by default that of the running Python.

    Raises:
        FileNotFoundError: The directory holds no Python source (some installations ship
            compiled files only).
    """
    directory = Path(sysconfig.get_path("stdlib")) if root is None else root
    found: dict[str, Entry] = {}
    for path, module in _modules(directory):
        for name, docstring in _docstrings(path, module):
            # A name defined twice, as in the branches of an `if`, keeps its first docstring.
            found.setdefault(name, Entry(name, f"{name}: {_opening(docstring)}"))
    if not found:
        msg = f"No Python source files with docstrings in {directory}."
        raise FileNotFoundError(msg)
    return [found[name] for name in sorted(found)]


def _modules(directory: Path) -> Iterator[tuple[Path, str]]:
    """Yield the source files of public modules with the names they are known by, in a fixed order."""
    for path in sorted(directory.rglob("*.py")):
        parts = path.relative_to(directory).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        if module in _PUBLIC_NAME:
            yield path, _PUBLIC_NAME[module]
        elif not _LEFT_OUT.intersection(parts) and not any(part.startswith("_") for part in module.split(".")):
            yield path, module


def _docstrings(path: Path, module: str) -> Iterator[tuple[str, str]]:
    """Yield the qualified names and docstrings of one file."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        # A few files of some distributions cannot be parsed or read; the rest is corpus enough.
        return
    pending: list[tuple[str, _Documented]] = [(module, tree)]
    while pending:
        name, node = pending.pop()
        docstring = ast.get_docstring(node)
        if docstring is not None and docstring.strip():
            yield name, docstring
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += [(f"{name}.{child.name}", child) for child in reversed(list(_definitions(node.body)))]


def _definitions(body: Sequence[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the public definitions of a body, those inside `if` and `try` statements included."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if not node.name.startswith("_"):
                yield node
        elif isinstance(node, ast.If):
            yield from _definitions([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            handlers = [statement for handler in node.handlers for statement in handler.body]
            yield from _definitions([*node.body, *handlers, *node.orelse, *node.finalbody])


def _opening(docstring: str) -> str:
    """Return the first paragraphs of a docstring, each on one line, cut at a word if need be."""
    paragraphs = [" ".join(block.split()) for block in docstring.split("\n\n")]
    opening = ""
    for paragraph in filter(None, paragraphs):
        if opening and len(opening) + len(paragraph) > MAX_CHARACTERS:
            break
        opening = f"{opening}\n{paragraph}".lstrip("\n")
    if len(opening) <= MAX_CHARACTERS:
        return opening
    return opening[:MAX_CHARACTERS].rpartition(" ")[0] + " ..."
