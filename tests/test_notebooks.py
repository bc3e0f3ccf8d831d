"""Every notebook is executed for real, and what is committed beside its source is that source with outputs."""

from __future__ import annotations

import base64
import re
import runpy
import struct
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOL = runpy.run_path(str(ROOT / "scripts" / "notebooks.py"))
SOURCES: list[Path] = TOOL["sources"]()
STEMS = [
    "01_langchain",
    "02_llama_index",
    "03_shared_model",
    "04_length_and_batch",
    "05_does_it_help",
    "06_long_documents",
    "07_ray",
]
WITH_PLOTS = {"03_shared_model", "04_length_and_batch", "05_does_it_help", "06_long_documents", "07_ray"}
MOST_BYTES = 300_000
THIS_MACHINE = re.compile(r"/(?:home|root|Users|usr|work|opt|tmp|var|mnt)/|[A-Z]:\\\\")

each = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def committed(source: Path) -> Any:
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def kinds(notebook: Any) -> list[list[str]]:
    """What each code cell puts out: the name of a stream, or the richest form of a value."""
    return [[kind_of(output) for output in cell.outputs] for cell in notebook.cells if cell.cell_type == "code"]


def kind_of(output: Any) -> str:
    if output.output_type in ("stream", "error"):
        return str(output.get("name", "error"))
    forms = ("image/png", "text/html", "text/plain")
    return next(form for form in forms if form in output.data)


def pictures(notebook: Any) -> list[bytes]:
    found = [output.data["image/png"] for output in outputs(notebook) if "image/png" in output.get("data", {})]
    return [base64.b64decode(picture) for picture in found]


def texts(notebook: Any) -> list[str]:
    """All text that a notebook shows, in whatever form."""
    found = [output.get("text", "") for output in outputs(notebook)]
    forms = ("text/plain", "text/html")
    return found + [
        output.data[form] for output in outputs(notebook) for form in forms if form in output.get("data", {})
    ]


def test_these_are_the_notebooks() -> None:
    assert [source.stem for source in SOURCES] == STEMS
    assert [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))] == STEMS


@each
def test_the_pair_is_in_sync(source: Path) -> None:
    ours, theirs = TOOL["read"](source), committed(source)
    nbformat.validate(theirs)
    assert [(cell.cell_type, cell.source) for cell in theirs.cells] == [
        (cell.cell_type, cell.source) for cell in ours.cells
    ]
    assert theirs.metadata == ours.metadata
    assert [cell.id for cell in theirs.cells] == [cell.id for cell in ours.cells]
    assert theirs.metadata["jupytext"]["formats"] == "ipynb,py:percent"
    assert theirs.cells[0].source.startswith("# ")


@each
def test_what_is_committed_is_clean(source: Path) -> None:
    path, notebook = source.with_suffix(".ipynb"), committed(source)
    assert path.stat().st_size < MOST_BYTES
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    seen = {kind for cell in kinds(notebook) for kind in cell}
    assert seen
    assert seen <= {"stdout", "image/png", "text/html", "text/plain"}
    assert [found.group() for text in texts(notebook) if (found := THIS_MACHINE.search(text))] == []


@each
def test_its_plots_are_there(source: Path) -> None:
    found = pictures(committed(source))
    assert bool(found) == (source.stem in WITH_PLOTS)
    for picture in found:
        assert picture.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", picture[16:24])
        assert 500 <= width <= 1300
        assert 250 <= height <= 800


@pytest.fixture(scope="module")
def executed(request: pytest.FixtureRequest) -> Iterator[dict[Path, Future[Any]]]:
    """The notebooks whose test is to run, two at a time: each waits much for kernels, workers and files."""
    wanted = [
        item.callspec.params["source"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == "test_it_runs"
    ]
    pool = ThreadPoolExecutor(2)
    yield {source: pool.submit(lambda this: TOOL["execute"](TOOL["read"](this)), source) for source in wanted}
    pool.shutdown(cancel_futures=True)


@each
@pytest.mark.timeout(300)  # each takes well under a minute where nothing else runs
def test_it_runs(source: Path, executed: dict[Path, Future[Any]]) -> None:
    notebook = executed[source].result()  # raises where a cell does
    assert kinds(notebook) == kinds(committed(source))
