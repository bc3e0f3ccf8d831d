"""Every notebook runs from top to bottom, and shows what it says it shows."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(path))
    printed = capsys.readouterr().out
    assert printed.strip()
    if path.stem == "01_quickstart":
        best = names["PASSAGES"][names["ranking"][0].index]
        assert "3,520,031" in best
        assert names["documents"][0].page_content == names["nodes"][0].text == best
        assert names["documents"][0].metadata["relevance_score"] == names["nodes"][0].score
