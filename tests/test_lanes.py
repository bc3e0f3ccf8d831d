"""Threads that compute a batch together: who gets which pairs, and that nobody notices but the clock."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import TinyModels

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.families.lanes import Lanes, divided
from flag_rerank_integrations.pairs import EncodedPair

TOGETHER = pytest.mark.skipif(
    sys.platform != "linux" or torch.get_num_threads() % 2 != 0, reason="lanes need Linux and an even number of threads"
)
PAIRS = [(f"query {i}", "giant panda bear in China " * (i % 7 + 1)) for i in range(40)]


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    live = Lanes()
    yield live
    live.close()


def running() -> set[threading.Thread]:
    """The lanes there are: those of rerankers that other tests have left to the garbage collector among them."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("flag-rerank lane")}


@given(st.lists(st.integers(1, 512), max_size=60), st.integers(1, 4))
def test_every_pair_is_in_one_share_and_no_share_is_much_larger(lengths: list[int], count: int) -> None:
    shares = divided(lengths, count, lambda share: sum(lengths[i] for i in share))
    assert sorted(index for share in shares for index in share) == list(range(len(lengths)))
    if len(shares) > 1:
        tokens = [sum(lengths[index] for index in share) for share in shares]
        assert len(shares) == count
        assert min(tokens) > 0
        assert max(tokens) * count <= 1.15 * sum(lengths)


def test_pairs_that_cannot_be_divided_evenly_stay_together() -> None:
    def parts(*lengths: int) -> list[list[int]]:
        return divided(lengths, 2, lambda share: sum(lengths[i] for i in share))

    assert parts(500, 20, 20) == [[0, 1, 2]]
    assert parts(100) == [[0]]
    assert parts() == [[]]
    assert parts(50, 100, 50) == [[1], [0, 2]]


def test_pairs_stay_together_where_each_share_would_repeat_much() -> None:
    lengths = [350] * 8

    def behind_a_head(tokens: int) -> list[list[int]]:
        return divided(lengths, 2, lambda share: tokens + sum(lengths[i] - tokens for i in share))

    assert len(behind_a_head(20)) == 2
    assert behind_a_head(300) == [list(range(8))]


@TOGETHER
def test_the_threads_of_torch_are_divided_and_no_other_thread_is_changed(lanes: Lanes) -> None:
    before = torch.get_num_threads()
    count = len(lanes.shares([10] * 16, len))
    assert count > 1
    both = threading.Barrier(count)  # that they run side by side: one after the other would wait for ever

    def look() -> int:
        both.wait(60)
        return torch.get_num_threads()

    assert lanes.run([look] * count) == [before // count] * count
    assert torch.get_num_threads() == before
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [before]


@TOGETHER
def test_an_error_comes_after_all_have_ended_and_lanes_go_on(lanes: Lanes) -> None:
    count = len(lanes.shares([10] * 16, len))
    slow = threading.Event()

    def fail() -> None:
        threading.Timer(0.05, slow.set).start()
        bytearray(1 << 62)

    with pytest.raises(MemoryError):
        lanes.run([fail, *[lambda: bool(slow.wait(60))] * (count - 1)])
    assert slow.is_set()
    assert lanes.run([lambda: 1] * count) == [1] * count


@TOGETHER
def test_an_error_keeps_nothing_of_its_batch(lanes: Lanes) -> None:
    class Batch:
        """Stands for what a forward pass holds in its frames."""

    held: list[weakref.ref[Batch]] = []

    def fail() -> None:
        batch = Batch()
        held.append(weakref.ref(batch))
        bytearray(1 << 62)

    count = len(lanes.shares([10] * 16, len))
    gc.disable()  # what only the collector of circles would free is not free when the batch is tried again
    try:
        for _ in range(3):
            with suppress(MemoryError):
                lanes.run([fail] * count)
        assert lanes.run([lambda: 1] * count) == [1] * count  # by now every lane is done with its error
        assert [batch() for batch in held] == [None] * 3 * count
    finally:
        gc.enable()


@TOGETHER
def test_what_is_run_after_the_close_is_run_without_them(lanes: Lanes) -> None:
    count = len(lanes.shares([10] * 16, len))
    lanes.close()
    assert lanes.run([threading.current_thread] * count) == [threading.current_thread()] * count
    assert lanes.shares([10] * 16, len) == [list(range(16))]


@TOGETHER
def test_where_no_thread_can_be_started_batches_are_computed_without(lanes: Lanes, monkeypatch: Any) -> None:
    start, before = threading.Thread.start, running()

    def start_first_alone(thread: threading.Thread) -> None:
        if not thread.name.endswith("lane 0"):
            msg = "can't start new thread"  # as the system's limit has it
            raise RuntimeError(msg)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_first_alone)
    assert lanes.shares([10] * 16, len) == [list(range(16))]
    assert lanes.run([lambda: 1]) == [1]
    assert running() <= before, "the one that had been started has ended"


@TOGETHER
def test_threads_end_with_their_owner() -> None:
    before = running()
    closed, forgotten = Lanes(), Lanes()
    closed.shares([1, 1], len)
    forgotten.shares([1, 1], len)
    assert running() - before
    closed.close()
    closed.close()
    gone = weakref.ref(forgotten)
    del forgotten
    gc.collect()
    assert gone() is None
    assert running() <= before


@TOGETHER
@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "modernbert-mean", "qwen3-classifier", "gemma2"])
def test_scores_equal_those_of_one_thread(tiny: TinyModels, kind: str) -> None:
    before = running()
    with Reranker(tiny(kind), device="cpu", max_length=64) as reranker:
        family = reranker._executor._scorer._family  # type: ignore[union-attr]
        encoded = family.encode(PAIRS)
        assert family.layout == "packed"
        together = family.forward(encoded)
        assert running() - before, "lanes were at work"
        alone = np.concatenate([family._forward([pair]) for pair in encoded])
        assert np.abs(together - alone).max() <= 3e-6
    assert running() <= before


@TOGETHER
def test_long_pairs_count_for_more_than_their_tokens(tiny: TinyModels) -> None:
    """The model is 32 wide, so attention takes most of what a pair of 64 tokens costs."""
    batch = [EncodedPair([7] * length, [0] * length) for length in (64, 32, 32, 8)]
    with Reranker(tiny("bert"), device="cpu", max_length=64) as reranker:
        family = reranker._executor._scorer._family  # type: ignore[union-attr]
        assert family._shares(batch, family._lanes) == [[0], [1, 2, 3]]


def test_one_thread_of_torch_needs_no_lanes() -> None:
    code = (
        "import threading, torch\n"
        "from flag_rerank_integrations.families.lanes import Lanes\n"
        "lanes = Lanes()\n"
        "print(lanes.shares([5, 5, 5], len), lanes.run([lambda: 1, lambda: 2]), threading.active_count())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.strip() == "[[0, 1, 2]] [1, 2] 1"
