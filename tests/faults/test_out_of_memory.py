"""Memory really runs out in workers: the system refuses it. Less is tried at a time, then one call is told."""

from __future__ import annotations

from pathlib import Path

import light_model
import pytest
from faults.pool_tools import pids, same, wait_until
from tiny_models import SIZES, Spec, build
from tiny_tokenizers import bert_tokenizer

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import DeviceError

WIDE = 65_536  # numbers per token between two layers: a quarter of a mebibyte
PAIRS = [(f"query {i}", "giant panda bear in China " * 40) for i in range(64)]
# Sums of 65,536 numbers, halved and shared among threads in other places by each batch size and processor: between
# one token budget and another the same pair differs by up to 6e-6 where the pairs lie 0.2 apart.
ROUNDING = 3e-5
LONGEST = [("a", "panda bear in China " * 1500)]


@pytest.fixture(params=["light", "torch"])
def wide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that needs little memory for itself and much for what it reads."""
    target = tmp_path_factory.mktemp("wide") / "model"
    if request.param == "light":
        return light_model.write(target, widths=(32, WIDE), positions=8192)
    sizes = {**SIZES, "num_hidden_layers": 2, "intermediate_size": WIDE, "max_position_embeddings": 8192}
    build(Spec("bert", bert_tokenizer, sizes), target)
    return str(target)


def test_out_of_memory(wide: str, marks: Path) -> None:
    """300 MiB are left to each worker: too little for one batch of several pairs, and for one very long pair."""
    with Reranker(wide, device="cpu", max_length=8000) as roomy:
        expected = roomy.score(PAIRS)
    with Reranker(wide, device="cpu:2", max_length=8000) as fresh:
        fresh.start()
        workers = set(map(str, pids(fresh)))
        wait_until(lambda: fresh.score([("sabotage", "limit memory")]) and workers <= {m.name for m in marks.iterdir()})
        assert same(fresh.score(PAIRS), expected, ROUNDING)
        stats = fresh.stats()
        # An ONNX graph on a CPU takes one pair at a time anyway: there is no budget to halve.
        assert (stats.oom_backoffs > 0) == (stats.layout == "packed")
        assert stats.layout != "packed" or stats.max_batch_tokens < 2048
        with pytest.raises(DeviceError, match=r"cpu is out of memory with a single pair of 6004 tokens"):
            fresh.score(LONGEST)
        assert same(fresh.score(PAIRS), expected, ROUNDING)
        assert set(map(str, pids(fresh))) == workers
        assert fresh.stats().worker_restarts == 0
