"""Pages in two languages show the same, and what READMEs name is there; test_guides.py runs their examples."""

from __future__ import annotations

import re

import pytest
from guide_pages import ROOT, blocks

READMES = ("README.md", "README.zh-CN.md")
GUIDES = ("quickstart", "devices", "multi-gpu")


def test_both_readmes_show_the_same_examples() -> None:
    english, chinese = ([(block.code, block.output) for block in blocks(name)] for name in READMES)
    assert english == chinese
    assert len(english) == 4
    assert all(output is not None for _, output in english), "the README shows no output below an example"


@pytest.mark.parametrize("guide", GUIDES)
def test_chinese_guides_lack_no_example_and_no_row(guide: str) -> None:
    names = f"docs/{guide}.md", f"docs/zh/{guide}.md"
    english, chinese = ([block.output for block in blocks(name)] for name in names)
    assert [output for output in chinese if output in english] == english
    rows, translated = (
        len(re.findall(r"^\|", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)) for name in names
    )
    assert rows == translated > 0


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
