"""docs/remote.md: its examples run, and its tables say what the code does."""

from __future__ import annotations

import re
from dataclasses import fields

import guide_pages
import pytest
from rerank_server import Serve

from flag_rerank_integrations import RemoteConfig, Reranker
from flag_rerank_integrations.remote.forms import FORMS

GUIDE = (guide_pages.ROOT / "docs" / "remote.md").read_text(encoding="utf-8")
URL = "http://localhost:8080"


def test_the_examples_run(serve: Serve, local: Reranker, capsys: pytest.CaptureFixture[str]) -> None:
    url = serve("tei").url
    outputs = guide_pages.run("docs/remote.md", capsys, {URL: url})
    best = local.rank("What do pandas eat?", ["The Nile is a river.", "Pandas eat bamboo."], top_n=1)[0]
    index, score, said_url, requests = "".join(outputs).split()
    assert (int(index), float(score)) == (best.index, pytest.approx(best.score, abs=3e-6))
    assert (said_url, requests) == (url, "1")


def test_the_table_of_servers_is_the_codes() -> None:
    rows = dict(re.findall(r'^\| `"(\w+)"` \|(.*)\|$', GUIDE, re.MULTILINE))
    assert list(rows) == list(FORMS)
    for name, form in FORMS.items():
        cells = [cell.strip() for cell in rows[name].split("|")]
        assert form.path in cells[1]
        assert cells[3].startswith("yes" if form.gives_logits else "refused")
        assert cells[4].startswith("cut or refused") == form.refuses_long
        assert f"{form.most_passages:,}" in cells[5]


def test_every_option_is_explained_and_its_default_right() -> None:
    for option in fields(RemoteConfig):
        assert re.search(rf"`{option.name}\b", GUIDE), option.name
    for name, default in re.findall(r"^\| `(\w+)` \| `?(\w+)`? \|", GUIDE, re.MULTILINE):
        assert str(getattr(RemoteConfig(URL), name)).removesuffix(".0") == default, name
