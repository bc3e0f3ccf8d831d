"""How well a pool of workers is used: `python -m benchmarks.scheduling --help`.

Two real workers with one thread each against one, on three mixes of lengths; four and eight
workers in simulated time with the costs measured here; what a message to a worker costs; and how
soon the work of a killed worker is on its way to another. Runs of what is compared alternate, and
ratios are taken within one round, so that what else the machine does hits both sides alike.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any, Final

from benchmarks.minilm import WORKLOADS, Texts, write
from benchmarks.simulation import Costs, makespan
from flag_rerank_integrations import Reranker

_RESULT: Final = Path(__file__).parent / "results" / "scheduling.json"
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
_MAX_LENGTH: Final = 512
_SIMULATED: Final = (2, 4, 8)
_GOALS: Final = {"makespan over ideal": "<= 1.1", "two workers over one": ">= 1.8", "killed to re-queued": "<= 2 s"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, write a JSON file."""
    options = _options(arguments)
    _prepare()
    load_before = os.getloadavg()
    texts = Texts.make()
    with tempfile.TemporaryDirectory() as directory:
        model = options.model or write(Path(directory))
        with (
            Reranker(model, device="cpu", max_length=_MAX_LENGTH) as one,
            Reranker(model, device="cpu:2", max_length=_MAX_LENGTH) as two,
        ):
            real = _real(one, two, texts, options)
            messages = _messages(two, texts, options.repeats * 4)
            costs = Costs.measure(one, texts, messages["1 pair"], options.repeats)
            kills = [_kill(two, texts, options.pairs) for _ in range(options.kills)]
    simulated = [
        {"workload": name, "workers": workers, "messages": count, "makespan over ideal": ratio}
        for name in WORKLOADS
        for workers in _SIMULATED
        for ratio, count in [makespan(texts.workload(name, options.simulated_pairs, 0), workers, costs, _MAX_LENGTH)]
    ]
    result = {
        "machine": {**_machine(), "load before": load_before, "load after": os.getloadavg()},
        "options": {"pairs": options.pairs, "repeats": options.repeats, "simulated pairs": options.simulated_pairs},
        "goals": _GOALS,
        "real, 2 workers": real,
        "simulated": simulated,
        "seconds of a message beside the scoring": messages,
        "seconds per pair by tokens": dict(zip(costs.tokens, costs.seconds, strict=True)),
        "after a kill": kills,
    }
    _show(result)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\nWritten to {options.out}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduling", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="a model's directory (default: MiniLM's shape, random weights)")
    parser.add_argument("--pairs", type=int, default=300, help="pairs of a real request (default: %(default)s)")
    parser.add_argument("--simulated-pairs", type=int, default=1000, help="of a simulated one (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; medians are shown (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=3, help="how many workers to kill (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=_RESULT, help="where to write (default: %(default)s)")
    return parser.parse_args(arguments)


def _prepare() -> None:
    """Give each worker one core and one thread, before torch is imported; and keep quiet about killed workers."""
    logging.getLogger("flag_rerank_integrations").setLevel(logging.ERROR)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    os.environ.update({**dict.fromkeys(_ONE_THREAD, "1"), "HF_HUB_OFFLINE": "1"})


def _real(one: Reranker, two: Reranker, texts: Texts, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Let one worker and two score the same pairs in turns."""
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in WORKLOADS}
    for reranker in (one, two):
        reranker.score(texts.workload(WORKLOADS[0], 32, seed=0))
    for repeat in range(options.repeats):
        for name in WORKLOADS:
            print(f"round {repeat + 1}: {name}", file=sys.stderr, flush=True)
            pairs = texts.workload(name, options.pairs, seed=repeat)
            alone, _ = _timed(one, pairs)
            together, busy = _timed(two, pairs)
            rounds[name].append((alone / together, together / (busy / 2)))
    return [
        {
            "workload": name,
            "two workers over one": median(speedup for speedup, _ in ratios),
            "makespan over ideal": median(ratio for _, ratio in ratios),
            "rounds": ratios,
        }
        for name, ratios in rounds.items()
    ]


def _timed(reranker: Reranker, pairs: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """Return the seconds a call took, and the seconds its workers spent scoring, added up."""
    before, start = reranker.stats().seconds, perf_counter()
    reranker.score(pairs)
    return perf_counter() - start, reranker.stats().seconds - before


def _messages(pool: Reranker, texts: Texts, repeats: int) -> dict[str, float]:
    """Measure what a round trip to a worker takes beyond the scoring there, by the size of the message."""
    worker = pool._executor._pool.dispatchers[0].worker  # type: ignore[union-attr] # noqa: SLF001 - idle
    sizes = {"1 pair": [32], "4,000 characters": [32] * 21, "32,000 characters": [320] * 17}
    taken: dict[str, list[float]] = {name: [] for name in sizes}
    for repeat in range(repeats):
        for name, lengths in sizes.items():
            pairs = texts.pairs(lengths, seed=repeat)
            before, start = worker.stats.seconds, perf_counter()
            worker.ask({"id": -repeat, "pairs": pairs, "layers": (), "counts": []}, None)
            taken[name].append(perf_counter() - start - (worker.stats.seconds - before))
    return {name: median(values) for name, values in taken.items()}


def _kill(pool: Reranker, texts: Texts, count: int) -> dict[str, float]:
    """Kill a worker with a shard in hand; measure until the shard waits again, and until there is a new worker.

    The worker is stopped before it gets the shard, or a fast one might have answered when the kill comes.
    """
    inner: Any = pool._executor._pool  # type: ignore[union-attr] # noqa: SLF001 - watched from outside
    victim, put_back, queued = inner.dispatchers[0], inner.queue.put_back, []

    def watched(shards: Sequence[Any]) -> None:
        put_back(shards)
        queued.append(perf_counter())

    inner.queue.put_back = watched
    restarts = pool.stats().worker_restarts
    os.kill(victim.worker.pid, signal.SIGSTOP)
    call = threading.Thread(target=pool.score, args=[texts.workload(WORKLOADS[0], count, seed=count)])
    call.start()
    while not victim.busy:
        if not call.is_alive():  # the other worker was so fast that it took every shard
            call = threading.Thread(target=pool.score, args=[texts.workload(WORKLOADS[0], count, seed=count)])
            call.start()
        sleep(0.001)
    start = perf_counter()
    victim.worker.interrupt()
    call.join()
    while pool.stats().worker_restarts == restarts:
        sleep(0.01)
    end = perf_counter()
    inner.queue.put_back = put_back
    return {"killed to re-queued": queued[0] - start, "killed to a new worker": end - start}


def _machine() -> dict[str, Any]:
    import torch
    import transformers

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _show(result: dict[str, Any]) -> None:
    print(f"{'workload':24}{'workers':>10}{'makespan/ideal':>16}{'speed-up':>10}{'messages':>10}")
    for row in result["real, 2 workers"]:
        speedup = row["two workers over one"]
        print(f"{row['workload']:24}{'2 (real)':>10}{row['makespan over ideal']:16.3f}{speedup:10.2f}")
    for row in result["simulated"]:
        print(f"{row['workload']:24}{row['workers']:10}{row['makespan over ideal']:16.3f}{'':10}{row['messages']:10}")
    for name, seconds in result["seconds of a message beside the scoring"].items():
        print(f"a message with {name:20}{seconds * 1000:10.1f} ms beside the scoring")
    for what in ("killed to re-queued", "killed to a new worker"):
        print(f"{what:35}{median(kill[what] for kill in result['after a kill']):10.2f} s")
    print(f"load average {result['machine']['load before'][0]:.1f} to {result['machine']['load after'][0]:.1f}")


if __name__ == "__main__":
    main()
