"""Runs the Python examples of a page, in order and in one namespace, and compares what they print.

A block of code is compared with the ```text block right below it, if there is one. What cannot run
in the tests (it needs a GPU, the hub, a package that is not installed) has a line above it that says why:

    <!-- not run: needs a GPU -->

Such a block must still compile. CONTRIBUTING.md tells authors the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+?) -->\n\n?)?"
    r"^```python\n(?P<code>.*?)^```$"
    r"(?:\n\n```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
# int8 arithmetic differs between processors in the second digit of a score.
_SCORE = re.compile(r"(?<![\w.])-?\d+\.\d\d(?![\d.])")
_SCORE_TOLERANCE = 0.3


@dataclass(frozen=True)
class Block:
    """One block of code, where it stands, the output shown below it, and why it is not run."""

    place: str
    code: str
    output: str | None
    reason: str | None


def pages() -> list[str]:
    """All pages with examples, as paths from the repository's root."""
    guides = (path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    names = [
        "README.md",
        "README.zh-CN.md",
        *sorted(name for name in guides if "/_build/" not in name and "/notebooks/" not in name),
    ]
    return [name for name in names if blocks(name)]


def blocks(page: str) -> list[Block]:
    """The examples of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(f"{page}:{text.count(chr(10), 0, found.start('code'))}", found["code"], found["output"], found["reason"])
        for found in _BLOCK.finditer(text)
    ]


def run(page: str, capsys: pytest.CaptureFixture[str], replaced: Mapping[str, str] | None = None) -> list[str]:
    """Run a page's examples, and return what each of them printed.

    Args:
        page: Path from the repository's root.
        capsys: Reads what they print.
        replaced: What stands in the page, and what takes its place here.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    outputs = []
    for block in blocks(page):
        code = block.code
        for shown, used in (replaced or {}).items():
            code = code.replace(shown, used)
        compiled = compile(code, block.place, "exec", dont_inherit=True)
        if block.reason:
            continue
        capsys.readouterr()
        exec(compiled, names)  # noqa: S102 - our own pages
        outputs.append(capsys.readouterr().out)
        if block.output is not None:
            _compare(outputs[-1], block)
    return outputs


def _compare(printed: str, block: Block) -> None:
    assert _SCORE.sub("score", printed) == _SCORE.sub("score", block.output or ""), block.place
    assert _scores(printed) == pytest.approx(_scores(block.output or ""), abs=_SCORE_TOLERANCE), block.place


def _scores(text: str) -> list[float]:
    return [float(found) for found in _SCORE.findall(text)]
