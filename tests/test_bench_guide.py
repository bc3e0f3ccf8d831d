"""docs/bench.md: its example runs, its defaults are the code's, and its files are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cli_tools import flag_rerank

from flag_rerank_integrations.bench import Limits, Rule
from flag_rerank_integrations.bench.grid import DEFAULT_LENGTHS
from flag_rerank_integrations.bench.workload import DEFAULT_PAIRS, DEFAULT_PASSAGES

DOCS = Path(__file__).parent.parent / "docs"
GUIDE = (DOCS / "bench.md").read_text(encoding="utf-8")


def test_the_example_prints_what_stands_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    code, output = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)[-1]
    exec(compile(code, "docs/bench.md", "exec"), {})  # noqa: S102 - our own guide
    assert capsys.readouterr().out == output


def test_every_option_exists_and_defaults_are_the_codes() -> None:
    offered = flag_rerank("bench", "--help").out
    for option in set(re.findall(r"--[a-z][a-z-]+", GUIDE)):
        assert option in offered
    limits, rule = Limits(), Rule()
    told = {
        "pairs": DEFAULT_PAIRS,
        "passages": DEFAULT_PASSAGES,
        "repeats": limits.repeats,
        "seconds-per-point": f"{limits.seconds_per_point:g}",
        "max-truncated": rule.max_truncated,
        "min-ndcg-ratio": rule.min_ndcg_ratio,
    }
    for name, default in told.items():
        assert f"`--{name} {default}`" in GUIDE
    assert f"| `--max-lengths` | `{','.join(map(str, DEFAULT_LENGTHS))}` |" in GUIDE


def test_its_pictures_are_there() -> None:
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", GUIDE)
    assert pictures
    assert all((DOCS / picture).is_file() for picture in pictures)
