"""Every Python example of every page runs, and prints what stands below it."""

from __future__ import annotations

import re
from pathlib import Path

import guide_pages
import pytest
from guide_pages import ROOT, blocks, pages

# These need files, providers, a model, a server or a cluster of their own: the tests named here run them.
ELSEWHERE = {
    "docs/bench.md": "test_bench_guide.py",
    "docs/conformance.md": "test_conformance_page.py",
    "docs/monitoring.md": "test_monitoring_guide.py",
    "docs/llm-rerankers.md": "test_docs_llm.py",
    "docs/migration.md": "test_migration_guide.py",
    "docs/remote.md": "test_remote_guide.py",
    "docs/scaling.md": "test_corpus_runs.py",
}


@pytest.mark.parametrize("page", [page for page in pages() if page not in ELSEWHERE])
def test_the_examples_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    outputs = guide_pages.run(page, capsys)
    assert len(outputs) == sum(block.reason is None for block in blocks(page))


@pytest.mark.parametrize("page, file", ELSEWHERE.items())
def test_the_other_pages_are_run_elsewhere(page: str, file: str) -> None:
    assert page in pages()
    text = (ROOT / "tests" / file).read_text(encoding="utf-8")
    assert f'{Path(page).name}"' in text
    assert "exec(" in text or "guide_pages.run(" in text or "subprocess" in text


def test_no_python_block_is_overlooked() -> None:
    for page in pages():
        text = (ROOT / page).read_text(encoding="utf-8")
        assert len(re.findall(r"^ *(?:```+|~~~+) *\{?(?:code-block\}? +)?python\b", text, re.MULTILINE)) == len(
            blocks(page)
        ), page


@pytest.mark.parametrize("page", pages())
def test_few_blocks_stay_untested(page: str) -> None:
    reasons = [block.reason for block in blocks(page) if block.reason]
    assert all(reason.startswith("needs ") for reason in reasons), reasons
