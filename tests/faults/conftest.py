"""A pool of two real worker processes for each module, and a count of survived faults at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import light_model
import pytest
from faults.pool_tools import PAIRS

from flag_rerank_integrations import Reranker

outcomes: dict[str, bool] = {}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return light_model.write(tmp_path_factory.mktemp("light") / "model")


@pytest.fixture(scope="session")
def expected(model: str) -> list[float]:
    """What one device in this process gives."""
    with Reranker(model, device="cpu") as alone:
        return alone.score(PAIRS)


@pytest.fixture(scope="module")
def pool(model: str) -> Iterator[Reranker]:
    with Reranker(model, device="cpu:2") as live:
        yield live


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have workers that start from now on obey sabotage/sitecustomize.py, and leave their names in this directory."""
    sabotage = str(Path(__file__).parent / "sabotage")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [sabotage, os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("SABOTAGE_MARKS", str(tmp_path))
    return tmp_path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.when == "call":
        outcomes[item.nodeid] = report.passed
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if outcomes:
        terminalreporter.write_line(f"faults: {sum(outcomes.values())} of {len(outcomes)} survived")
