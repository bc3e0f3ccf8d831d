"""What a small request costs beyond its forward pass: `python -m benchmarks.latency --help`.

One query with five short passages, on a warm reranker, over and over with new texts. Timed are the
whole call, the family's `forward` (ids in, logits out) and its `encode` (texts in, ids out) inside it;
what is left is queueing, planning, checking and ordering.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from benchmarks import machine  # first of all: it sets the threads before torch is imported
from benchmarks.models import locate
from benchmarks.workloads import Request, short_requests

_RESULTS: Final = Path(__file__).parent / "results"
_WARM_UP: Final = 20


@dataclass(slots=True)
class Clock:
    """Seconds inside the two steps of the family since it was last read."""

    forward: float = 0.0
    encode: float = 0.0

    def read(self) -> tuple[float, float]:
        """Return both and start anew."""
        both = self.forward, self.encode
        self.forward = self.encode = 0.0
        return both


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; print a table and write a JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["encoder-small", "quickstart"], help="see README.md")
    parser.add_argument("--passages", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=24, help="of each passage")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--threads", type=int, default=None, help="default: all CPUs")
    parser.add_argument("--out", type=Path, default=_RESULTS / "latency.json", help="the JSON file")
    options = parser.parse_args(arguments)
    threads = machine.limit_threads(options.threads)
    from benchmarks.systems import versions

    workload = {"passages": options.passages, "tokens": options.tokens, "calls": options.calls}
    result: dict[str, Any] = {"device": machine.describe(threads), "versions": versions(), "workload": workload}
    result["rows"] = [row for name in options.models for row in _measure(name, options)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{'milliseconds, p50 (p90)':32} {'whole':>14} {'forward':>14} {'encode':>14} {'beyond forward':>14}")
    for row in result["rows"]:
        cells = [
            f"{row[part]['p50']:.2f} ({row[part]['p90']:.2f})" for part in ("whole", "forward", "encode", "beyond")
        ]
        print(f"{row['model'] + ', ' + row['call']:32} " + " ".join(f"{cell:>14}" for cell in cells))
    print(f"\nWritten to {options.out}")


def _measure(name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from benchmarks.reference import tokenizer_of
    from benchmarks.systems import Ours

    model = locate(name)
    count = options.calls + _WARM_UP
    requests = short_requests(tokenizer_of(model), 2 * count, options.passages, options.tokens)
    with _timed_family() as clock:
        system = Ours(model)
    rank = system.reranker.rank
    yield {"model": model.name, "call": "rank", **_parts(lambda request: rank(*request), requests[:count], clock)}
    loop = asyncio.new_event_loop()  # one for all calls, as a server has

    def arank(request: Request) -> object:
        return loop.run_until_complete(system.reranker.arank(*request))

    yield {"model": model.name, "call": "arank", **_parts(arank, requests[count:], clock)}
    loop.close()
    system.close()


def _parts(call: Callable[[Request], object], requests: Sequence[Request], clock: Clock) -> dict[str, Any]:
    """Time calls; return the median and the 90th percentile of each part in milliseconds."""
    parts: dict[str, list[float]] = {"whole": [], "forward": [], "encode": [], "beyond": []}
    for i, request in enumerate(requests):
        clock.read()
        start = time.perf_counter()
        call(request)
        whole = time.perf_counter() - start
        forward, encode = clock.read()
        if i >= _WARM_UP:
            for part, seconds in zip(parts, (whole, forward, encode, whole - forward), strict=True):
                parts[part].append(1000 * seconds)
    return {
        part: {"p50": round(median(values), 4), "p90": round(quantiles(values, n=10)[-1], 4)}
        for part, values in parts.items()
    }


@contextmanager
def _timed_family() -> Iterator[Clock]:
    """Time the two steps of every family that is loaded inside the block, for as long as it lives."""
    from flag_rerank_integrations import families

    clock, load = Clock(), families.load

    def loading(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - passed through
        family: Any = load(*args, **kwargs)
        for step in ("forward", "encode"):
            setattr(family, step, _timed(getattr(family, step), clock, step))
        return family

    families.load = loading
    try:
        yield clock
    finally:
        families.load = load


def _timed(step: Callable[..., Any], clock: Clock, name: str) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - passed through
        start = time.perf_counter()
        try:
            return step(*args, **kwargs)
        finally:
            setattr(clock, name, getattr(clock, name) + time.perf_counter() - start)

    return timed


if __name__ == "__main__":
    main()
