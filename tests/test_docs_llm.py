"""The examples of docs/llm-rerankers.md run, on small models of the published depth."""

from __future__ import annotations

from pathlib import Path

import guide_pages
import pytest
from layered_models import build

PAGE = (guide_pages.ROOT / "docs" / "llm-rerankers.md").read_text(encoding="utf-8")


def test_every_example_runs_and_prints_what_stands_below_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build("layerwise", tmp_path, num_hidden_layers=40, start_layer=8, hidden_size=16, intermediate_size=16)
    models = {"BAAI/bge-reranker-v2-minicpm-layerwise": str(path)}
    assert len(guide_pages.run("docs/llm-rerankers.md", capsys, models)) == 3


def test_the_prompts_are_those_of_the_code() -> None:
    from flag_rerank_integrations.families.lightweight import LIGHTWEIGHT_PROMPT
    from flag_rerank_integrations.families.prompts import TASKS

    assert LIGHTWEIGHT_PROMPT in PAGE
    for name, text in TASKS.items():
        assert f'| `"{name}"` | {text} |' in PAGE
