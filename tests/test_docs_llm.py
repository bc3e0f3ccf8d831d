"""The examples of docs/llm-rerankers.md run, on small models of the published depth."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from layered_models import build

PAGE = (Path(__file__).parent.parent / "docs" / "llm-rerankers.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
IMPORT = "from flag_rerank_integrations import Reranker\n"


def test_every_example_runs_and_prints_what_stands_below_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build("layerwise", tmp_path, num_hidden_layers=40, start_layer=8, hidden_size=16, intermediate_size=16)
    blocks = list(BLOCK.finditer(PAGE))
    assert len(blocks) == 3
    for block in blocks:
        code = block["code"].replace("BAAI/bge-reranker-v2-minicpm-layerwise", str(path))
        exec(compile(IMPORT + code, "docs/llm-rerankers.md", "exec"), {})  # noqa: S102 - our own page
        assert capsys.readouterr().out == (block["output"] or "")


def test_the_prompts_are_those_of_the_code() -> None:
    from flag_rerank_integrations.families.lightweight import LIGHTWEIGHT_PROMPT
    from flag_rerank_integrations.families.prompts import TASKS

    assert LIGHTWEIGHT_PROMPT in PAGE
    for name, text in TASKS.items():
        assert f'| `"{name}"` | {text} |' in PAGE
