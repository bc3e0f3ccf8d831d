"""The examples of docs/examples.md run in the order of the page, and print what stands below them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_readme import BLOCK

PAGE = (Path(__file__).parent.parent / "docs" / "examples.md").read_text(encoding="utf-8")


def test_every_example_runs_and_prints_what_stands_below_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names: dict[str, object] = {"__name__": "examples"}
    blocks = list(BLOCK.finditer(PAGE))
    assert len(blocks) == PAGE.count("```python\n") == 9
    for block in blocks:
        # As a script of its own: this file's __future__ import is not the page's.
        code = compile(block["code"], "docs/examples.md", "exec", dont_inherit=True)
        exec(code, names)  # noqa: S102 - our own page
        assert capsys.readouterr().out == (block["output"] or ""), block["code"]


def test_the_pages_own_links_lead_to_its_headings() -> None:
    targets = set(re.findall(r"\]\(#([^)]+)\)", PAGE))
    titles = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    assert targets == {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
