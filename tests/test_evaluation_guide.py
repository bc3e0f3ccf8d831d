"""docs/evaluation.md: its figures are those that were measured; test_guides.py runs its example."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flag_rerank_integrations.evaluation import Comparison
from flag_rerank_integrations.evaluation.report import table_of

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("evaluation_*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_figures_are_those_measured(path: Path) -> None:
    measured = json.loads(path.read_text(encoding="utf-8"))
    comparisons = []
    for line in measured["measures"]:
        difference = line.pop("difference")
        comparisons.append(Comparison(**line))
        assert comparisons[-1].difference == difference
    assert "\n".join(f"  {line}" for line in table_of(comparisons)) in GUIDE
    assert f"{measured['name']}: {measured['queries']} queries, the first {measured['top_k']} passages" in GUIDE


def test_there_are_figures() -> None:
    assert len(RESULTS) == 2
