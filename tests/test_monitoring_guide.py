"""The examples of docs/monitoring.md run, and what it says of metrics is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from opentelemetry import trace

from flag_rerank_integrations.monitoring.catalog import CALL_DURATION, MEASURES

PAGE = (Path(__file__).parent.parent / "docs" / "monitoring.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def test_every_example_runs_and_prints_what_stands_below_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The examples set the global providers; here that holds for this test alone.
    monkeypatch.setattr(
        trace, "set_tracer_provider", lambda given: monkeypatch.setattr(trace, "_TRACER_PROVIDER", given)
    )
    blocks = list(BLOCK.finditer(PAGE))
    assert len(blocks) >= 4
    for block in blocks:
        exec(compile(block["code"], "docs/monitoring.md", "exec"), {"__name__": "__main__"})  # noqa: S102 - our own page
        assert capsys.readouterr().out == (block["output"] or "")


def test_the_table_names_every_metric_and_no_other() -> None:
    named = set(re.findall(r"^\| `(flag_rerank_[a-z_]+)`", PAGE, re.MULTILINE))
    assert named == {CALL_DURATION, *(measure.prometheus_name for measure in MEASURES)}
    for measure in MEASURES:
        assert f"`{measure.name}`" in PAGE
