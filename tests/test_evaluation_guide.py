"""docs/evaluation.md: its example runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GUIDE = (Path(__file__).parent.parent / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_the_example_runs_and_prints_what_stands_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    ((code, output),) = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    exec(compile(code, "docs/evaluation.md", "exec"), {})  # noqa: S102 - our own guide
    assert capsys.readouterr().out == output
