"""The benchmark of the worker pool: its model is read as it says, and its simulation adds up."""

from __future__ import annotations

import sys
from pathlib import Path

import light_model
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks are no part of the installed package

from benchmarks import scheduling
from benchmarks.minilm import WORKLOADS, Texts, tokens_of, write
from benchmarks.simulation import Costs, makespan
from flag_rerank_integrations import Reranker

LINEAR = Costs(tokens=(16, 512), seconds=(0.016, 0.512), shard_seconds=0.002)


@pytest.fixture(scope="module")
def texts() -> Texts:
    return Texts.make()


def test_lengths_are_what_the_model_reads(texts: Texts, tmp_path: Path) -> None:
    pairs = [pair for name in WORKLOADS for pair in texts.workload(name, 6, seed=1)]
    with Reranker(write(tmp_path), device="cpu", max_length=512) as reranker:
        reranker.score(pairs)
        assert reranker.stats().tokens == sum(map(tokens_of, pairs))


def test_costs_lie_on_the_line_between_lengths(texts: Texts) -> None:
    for pair in texts.workload("random", 20, seed=0):
        assert LINEAR.of(pair) == pytest.approx(tokens_of(pair) / 1000)


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
@pytest.mark.parametrize("workload", WORKLOADS)
def test_simulated_workers_reach_the_goal(texts: Texts, workload: str, workers: int) -> None:
    ratio, messages = makespan(texts.workload(workload, 1000, seed=0), workers, LINEAR, 512)
    assert 1 <= ratio <= 1.1
    assert messages >= workers


def test_messages_that_cost_much_show(texts: Texts) -> None:
    costly = Costs(LINEAR.tokens, LINEAR.seconds, shard_seconds=5.0)
    pairs = texts.workload("random", 1000, seed=0)
    assert makespan(pairs, 4, costly, 512)[0] > 1.1 * makespan(pairs, 4, LINEAR, 512)[0]


def test_the_benchmark_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real run, as small as it gets, with a model whose workers start fast."""
    monkeypatch.setattr(scheduling, "_prepare", lambda: None)  # other tests want their cores and their log
    out = tmp_path / "results" / "scheduling.json"
    sizes = ["--pairs", "40", "--simulated-pairs", "40", "--repeats", "1", "--kills", "1"]
    scheduling.main([*sizes, "--model", light_model.write(tmp_path / "light", positions=512), "--out", str(out)])
    assert '"killed to re-queued"' in out.read_text()
