"""A process that measures one setting once, and ends: what it held at most is that setting's memory.

Started as `python -m flag_rerank_integrations.bench._measuring`; one frame comes in and one goes out.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import cycle
from typing import Any, BinaryIO

from flag_rerank_integrations.bench.measurement import Round
from flag_rerank_integrations.bench.workload import Request
from flag_rerank_integrations.executors.frames import GREETING, read_frame, write_frame

__all__ = ["measure", "timed_runs"]


def main() -> None:
    """Be the process."""
    # Whatever else prints goes to standard error.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    answers.write(GREETING)
    task = read_frame(sys.stdin.buffer)
    if task is None:
        return
    threading.Thread(target=_end_with_parent, args=(sys.stdin.buffer,), daemon=True).start()
    write_frame(answers, _answer(task))


def _end_with_parent(pipe: BinaryIO) -> None:
    pipe.read()
    os._exit(1)


def _answer(task: dict[str, Any]) -> dict[str, Any]:
    from flag_rerank_integrations.executors._child import described

    try:
        requests = [(query, passages) for query, passages in task["requests"]]
        return {"measured": asdict(measure(task["config"], requests, task["seconds"]))}
    except Exception as error:  # noqa: BLE001 - whatever it was, it is this setting's result
        return {"failed": described(error)}


def measure(options: dict[str, Any], requests: Sequence[Request], seconds: float) -> Round:
    """Load the model and measure: half of the time with all requests in one call, half with one after the other.

    Args:
        options: Those of a `RerankConfig`.
        requests: What to score.
        seconds: How long to measure, loading not included. One pass and one request are measured in any case.

    Raises:
        RerankError: The model cannot be loaded or run in this way.
    """
    from flag_rerank_integrations.bench.memory import device_peak, host_peak
    from flag_rerank_integrations.config import RerankConfig
    from flag_rerank_integrations.ray_options import ray_options
    from flag_rerank_integrations.reranker import Reranker

    config = RerankConfig.from_dict(options)
    with Reranker.from_config(config) as reranker:
        rankings = reranker.rank_many(requests)
        tokens = reranker.stats().tokens
        passes = timed_runs(lambda: reranker.rank_many(requests), seconds / 2)
        turn = cycle(requests)
        latencies = timed_runs(lambda: reranker.rank(*next(turn)), seconds / 2)
        stats = reranker.stats()
        ray = ray_options(config.device, config.ray) is not None
        return Round(
            pairs=sum(map(len, rankings)),
            tokens=tokens,
            passes=tuple(passes),
            latencies=tuple(latencies),
            truncated_pairs=sum(bool(ranked.truncated_tokens) for ranking in rankings for ranked in ranking),
            host_memory=host_peak(stats.devices, ray=ray),
            device_memory=device_peak(stats.devices),
            load_seconds=stats.load_seconds.get("total", 0.0),
            workers=len(stats.devices),
            max_batch_tokens=stats.max_batch_tokens,
            layout=stats.layout,
            oom_backoffs=stats.oom_backoffs,
            worker_restarts=stats.worker_restarts,
        )


def timed_runs(run: Callable[[], object], seconds: float) -> list[float]:
    """Return the seconds of each run, as many as fit into the time; at least one."""
    taken: list[float] = []
    total = 0.0
    while not taken or total + taken[-1] <= seconds:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
        total += taken[-1]
    return taken


if __name__ == "__main__":
    main()
