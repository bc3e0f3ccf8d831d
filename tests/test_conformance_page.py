"""docs/conformance.md: its examples run, its defaults are right, and its tables are what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from guide_pages import blocks

from benchmarks.conformance import CASES, table
from flag_rerank_integrations.testing import DocumentCompressorConformance

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
RESULT = json.loads((ROOT / "benchmarks" / "results" / "conformance.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("framework", ["LangChain", "LlamaIndex"])
def test_the_tables_are_the_results(framework: str) -> None:
    assert table(RESULT, framework) in PAGE


def test_every_integration_was_run_and_is_named_with_its_versions() -> None:
    assert [case["name"] for case in RESULT["integrations"]] == [case.name for case in CASES]
    for case in RESULT["integrations"]:
        for distribution, version in case["versions"].items():
            assert f"{distribution} {version}" in PAGE, distribution


def test_ours_pass_what_they_were_asked() -> None:
    ours = [case for case in RESULT["integrations"] if case["name"].startswith("FlagRerank")]
    outcomes = {test["outcome"] for case in ours for test in case["tests"].values()}
    assert len(ours) == 2
    assert outcomes <= {"passed", "not claimed"}


def test_the_examples_run() -> None:
    names: dict[str, Any] = {"__name__": "examples"}
    examples = blocks("docs/conformance.md")
    for example in examples:
        # As a script of its own: this file's __future__ import is not the page's.
        exec(compile(example.code, example.place, "exec", dont_inherit=True), names)  # noqa: S102 - our own page
    assert len(examples) == 2
    mine = names["TestMyOtherReranker"]()
    assert isinstance(mine.build(), names["FlagRerankCompressor"])
    mine.test_overrides_are_explained()


def test_every_property_exists_and_its_default_is_right() -> None:
    class Defaults(DocumentCompressorConformance):
        compressor_class = None  # type: ignore[assignment]

    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*)(?: \(LangChain\))? \| (`[^|]+`|[\d, ]+) \|", PAGE, re.MULTILINE)
    for cells, default in rows:
        for name, shown in zip(re.findall(r"\w+", cells), default.strip("`").split(", ") * 3, strict=False):
            value = getattr(Defaults(), name)
            text = f"({value[0].__name__},)" if isinstance(value, tuple) else json.dumps(value)
            assert text.replace("true", "True").replace("null", "None").replace("0.0001", "1e-4") == shown, name
    assert len(rows) >= 8
