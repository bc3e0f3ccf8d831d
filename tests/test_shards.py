"""Requests are cut, queued and answered piece by piece; no process is involved."""

from __future__ import annotations

import heapq
import random
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flag_rerank_integrations.errors import WorkerError
from flag_rerank_integrations.executors.request import Request
from flag_rerank_integrations.executors.shards import Shard, ShardQueue, cost_of, cut
from flag_rerank_integrations.pairs import ScoredPairs


def test_two_shards_that_fail_at_once_fail_their_request_once() -> None:
    """Any number of threads may settle a request at the same time: one of them does, none of them raises."""
    requests = [Request([("a", "b")]) for _ in range(500)]
    for request in requests[::2]:
        request.future.set_running_or_notify_cancel()  # as far as a thread may have come when it is interrupted
    start, raised = threading.Barrier(4), []

    def fail() -> None:
        start.wait()
        try:
            for request in requests:
                request.fail(WorkerError("lost"))
        except Exception as error:  # noqa: BLE001 - that nothing is raised is what the test is about
            raised.append(error)

    threads = [threading.Thread(target=fail) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []
    assert all(isinstance(request.future.exception(0), WorkerError) for request in requests)


def test_a_request_that_was_cancelled_stays_so() -> None:
    request = Request([("a", "b")])
    request.future.cancel()
    request.put(0, 1.0, 0)
    request.report(1)
    assert request.future.cancelled()


def test_a_progress_bar_that_fails_costs_no_score() -> None:
    """Standard error may be closed by then, say."""

    def fail(_count: int) -> None:
        msg = "I/O operation on closed file"
        raise ValueError(msg)

    request = Request([("a", "b"), ("c", "d")], fail)
    for index in range(2):
        request.put(index, 1.0, 0)
        request.report(1)
    assert request.future.result(0).logits == [1.0, 1.0]


def test_a_shard_delivered_twice_does_not_stand_in_for_another() -> None:
    """A shard whose delivery failed halfway is scored again; the request still waits for the rest."""
    request = Request([("q", f"{i} " * 3000) for i in range(4)])
    first, *rest = cut(request, workers=2, most_characters=100_000)
    assert rest
    first.deliver(ScoredPairs([1.0] * len(first.pairs), [0] * len(first.pairs)))
    first.deliver(ScoredPairs([1.0] * len(first.pairs), [0] * len(first.pairs)))
    assert not request.future.done()
    for shard in rest:
        assert not request.future.done()
        shard.deliver(ScoredPairs([2.0] * len(shard.pairs), [0] * len(shard.pairs)))
    assert sorted(request.future.result(0).logits) == [1.0, 2.0, 2.0, 2.0]


def test_an_answer_of_the_wrong_length_is_refused_whole() -> None:
    request = Request([("q", "a"), ("q", "b")])
    (shard,) = cut(request, workers=2, most_characters=100)
    with pytest.raises(ValueError, match="1 scores for 2 pairs"):
        shard.deliver(ScoredPairs([1.0], [0]))
    assert request.missing == 2


def request_of(lengths: Sequence[int]) -> Request:
    """A request of distinct pairs whose passages have so many characters."""
    return Request([(f"q{i:06}", "x" * length) for i, length in enumerate(lengths)])


def makespan(shards: Sequence[Shard], workers: int, error: float = 0.0) -> float:
    """When the last worker is done, each taking the next shard when it is free.

    Args:
        shards: In the order they are given out.
        workers: How many there are.
        error: Standard deviation of the logarithm of a shard's real cost over its estimated one.

    Returns:
        As a multiple of the ideal: the real cost of all shards over the workers.
    """
    generator = random.Random(0)
    costs = [shard.cost * generator.lognormvariate(0, error) for shard in shards]
    ends = [0.0] * workers
    for cost in costs:
        heapq.heapreplace(ends, ends[0] + cost)
    return max(ends) / (sum(costs) / workers)


WORKLOADS = {
    "random": [200 + 1800 * (i * 7919 % 997) // 997 for i in range(1200)],
    "sorted": list(range(200, 2600, 2)),
    "half long, half short": [2400] * 600 + [200] * 600,
}


@pytest.mark.parametrize("workers", [2, 4, 8])
@pytest.mark.parametrize("workload", WORKLOADS)
def test_workers_are_done_at_about_the_same_time(workload: str, workers: int) -> None:
    """Even where costs are estimated a fifth too high or too low."""
    shards = cut(request_of(WORKLOADS[workload]), workers, 6000)
    assert makespan(shards, workers) <= 1.02
    assert makespan(shards, workers, error=0.2) <= 1.1


@pytest.mark.parametrize("pairs, workers", [(20, 2), (40, 2), (40, 4), (40, 8), (100, 8)])
def test_requests_of_a_few_batches_are_divided_evenly(pairs: int, workers: int) -> None:
    assert makespan(cut(request_of([1000] * pairs), workers, 6000), workers) <= 1.3


@given(lengths=st.lists(st.integers(0, 5000), min_size=1, max_size=300), workers=st.integers(1, 9))
def test_each_pair_is_in_one_shard_and_long_ones_come_first(lengths: list[int], workers: int) -> None:
    request = request_of(lengths)
    shards = cut(request, workers, 6000)
    assert sorted(i for shard in shards for owners in shard.indices for i in owners) == list(range(len(lengths)))
    assert all(request.pairs[i] == pair for s in shards for pair, (i,) in zip(s.pairs, s.indices, strict=True))
    costs = [cost_of(pair, 6000) for shard in shards for pair in shard.pairs]
    assert costs == sorted(costs, reverse=True)
    assert all(shard.cost == sum(cost_of(pair, 6000) for pair in shard.pairs) for shard in shards)


def test_no_shard_holds_a_worker_for_long() -> None:
    """However large a request is, others get their turn and a lost shard is little work lost."""
    shards = cut(request_of([1000] * 20_000), 2, 6000)
    assert max(shard.cost for shard in shards) <= 32_000 + 1023


def test_a_small_request_stays_in_one_piece() -> None:
    assert len(cut(request_of([500] * 14), 8, 6000)) == 1
    assert len(cut(request_of([500] * 30), 8, 6000)) > 1


def test_equal_pairs_are_scored_once() -> None:
    request = Request([("q", "a"), ("q", "b"), ("q", "a")])
    (shard,) = cut(request, 2, 6000)
    assert sorted(zip(shard.pairs, shard.indices, strict=True)) == [(("q", "a"), [0, 2]), (("q", "b"), [1])]


def test_cost_follows_tokens_in_any_script() -> None:
    """A Chinese character is about one token, an English word of five letters, too; a lone surrogate breaks nothing."""
    english = cost_of(("panda", "giant panda bears live in China " * 10), 6000)
    chinese = cost_of(("熊猫", "大熊猫生活在中国的山区里" * 10), 6000)
    assert 0.8 < chinese / english < 1.25
    assert cost_of(("q", "\ud800"), 6000) < 100
    assert cost_of(("q", "x" * 100_000), 6000) < 6100


def test_shards_of_one_request_are_not_put_together_again() -> None:
    queue = ShardQueue()
    queue.put(cut(request_of([3500] * 4), 4, 6000))
    assert [len(queue.take(lambda: True) or []) for _ in range(5)] == [1, 1, 1, 1, 0]


def test_small_requests_share_a_message() -> None:
    queue = ShardQueue()
    for _ in range(4):
        queue.put(cut(request_of([1000] * 2), 4, 6000))
    assert [len(queue.take(lambda: True) or []) for _ in range(3)] == [3, 1, 0]
