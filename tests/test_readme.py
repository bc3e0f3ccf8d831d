"""Every Python example of both READMEs runs, and prints what stands below it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.zh-CN.md")
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
# int8 arithmetic differs between processors in the second digit of a score.
SCORE = re.compile(r"^(-?\d+)\.\d\d ", re.MULTILINE)


class Example(NamedTuple):
    """One block of code, and the output shown below it."""

    place: str
    code: str
    output: str | None


def examples() -> list[Example]:
    found = []
    for name in READMES:
        text = (ROOT / name).read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            found.append(Example(f"{name}:{line}", block["code"], block["output"]))
    return found


def scores(output: str) -> list[float]:
    return [float(match[0]) for match in SCORE.finditer(output)]


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.place)
def test_example(example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(example.code, example.place, "exec"), {"__name__": "__main__"})  # noqa: S102 - our own README
    assert example.output is not None, "the README shows no output below this example"
    printed = capsys.readouterr().out
    assert SCORE.sub("score ", printed) == SCORE.sub("score ", example.output)
    assert scores(printed) == pytest.approx(scores(example.output), abs=0.3)


def test_both_readmes_show_the_same_examples() -> None:
    codes = {name: [example.code for example in examples() if example.place.startswith(f"{name}:")] for name in READMES}
    assert codes["README.md"] == codes["README.zh-CN.md"]
    assert len(codes["README.md"]) == 3


@pytest.mark.parametrize("name", READMES)
def test_links_lead_somewhere(name: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    assert targets
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert not missing


@pytest.mark.parametrize("name", READMES)
def test_the_options_table_names_every_option_once(name: str) -> None:
    from dataclasses import fields

    from flag_rerank_integrations import RerankConfig

    text = (ROOT / name).read_text(encoding="utf-8")
    missing = [option.name for option in fields(RerankConfig) if f"`{option.name}`" not in text]
    assert not missing
