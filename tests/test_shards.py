"""Requests are cut, queued and answered piece by piece; no process is involved."""

from __future__ import annotations

import threading

import pytest

from flag_rerank_integrations.errors import WorkerError
from flag_rerank_integrations.executors.request import Request
from flag_rerank_integrations.executors.shards import cut


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
    first.deliver([1.0] * len(first.pairs), [0] * len(first.pairs))
    first.deliver([1.0] * len(first.pairs), [0] * len(first.pairs))
    assert not request.future.done()
    for shard in rest:
        assert not request.future.done()
        shard.deliver([2.0] * len(shard.pairs), [0] * len(shard.pairs))
    assert sorted(request.future.result(0).logits) == [1.0, 2.0, 2.0, 2.0]


def test_an_answer_of_the_wrong_length_is_refused_whole() -> None:
    request = Request([("q", "a"), ("q", "b")])
    (shard,) = cut(request, workers=2, most_characters=100)
    with pytest.raises(ValueError, match="argument"):
        shard.deliver([1.0], [0])
    assert request.missing == 2
