"""This package beside nothing but the matrix products of its floor, in turn: `python -m benchmarks.limit --help`.

After every batch, some seconds at most, the worker computes as many operations as that batch's share of
the floor has, by matrix products alone. Whatever else the machine does then hits both alike, however long the whole
takes; a rate that is measured before and after a run of a minute says little of what was possible in it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from benchmarks import machine  # first of all: it sets the threads before torch is imported
from benchmarks.models import locate
from benchmarks.workloads import LONGEST_CAUSAL, MAX_LENGTH, parse

if TYPE_CHECKING:
    from flag_rerank_integrations.executors import Executor

_RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Seconds:
    """Of one round."""

    wall: float
    cpu: float
    """Of all threads."""

    def __sub__(self, other: Seconds) -> Seconds:
        """Take a part away."""
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)

    def __add__(self, other: Seconds) -> Seconds:
        """Add a part."""
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; print a table and write a JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limit", description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["encoder-small", "encoder-base"], help="see README.md")
    parser.add_argument("--workloads", nargs="+", default=["1x5", "1x40", "4x50"], help="QUERIESxPASSAGES")
    parser.add_argument("--seconds", type=float, default=30.0, help="rounds of a row go on for so long")
    parser.add_argument("--instructions", choices=["avx2"], default=None, help="use no wider ones than these")
    parser.add_argument("--threads", type=int, default=None, help="default: all CPUs")
    parser.add_argument("--out", type=Path, default=_RESULTS / "limit.json", help="the JSON file")
    options = parser.parse_args(arguments)
    if options.instructions:
        machine.limit_instructions()
    threads = machine.limit_threads(options.threads)
    from benchmarks.systems import versions

    result: dict[str, Any] = {"device": machine.describe(threads), "versions": versions()}
    result["settings"] = {"seconds": options.seconds, "instructions": options.instructions or "all"}
    result["rows"] = rows = []
    print(f"{'':24} {'rounds':>6} {'seconds':>8} {'share':>6} {'least':>6} {'most':>6} {'CPU share':>9}", flush=True)
    for name in options.models:
        for workload in options.workloads:
            row = _measure(name, workload, options.seconds)
            rows.append(row)
            shares, label = row["all_shares"], f"{row['model']} {workload}"
            print(
                f"{label:24} {len(shares):6} {row['seconds']:8.3f} {row['share']:6.2f} {min(shares):6.2f}"
                f" {max(shares):6.2f} {row['cpu_share']:9.2f}",
                flush=True,
            )
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\nWritten to {options.out}")


def _measure(name: str, workload: str, seconds: float) -> dict[str, Any]:
    """Run rounds of one workload; shares are of the time of the products in that of the whole call."""
    from benchmarks.floor import work
    from benchmarks.reference import pair_ids, tokenizer_of
    from flag_rerank_integrations import executors
    from flag_rerank_integrations.config import RerankConfig

    model = locate(name)
    tokenizer = tokenizer_of(model)
    requests = parse(workload).requests(tokenizer, LONGEST_CAUSAL if model.kind == "causal" else MAX_LENGTH)
    pairs = [(query, passage) for query, passages in requests for passage in passages]
    lengths = [len(pair_ids(tokenizer, model.kind, *pair)) for pair in pairs]
    products, operations = Products(model.config), work(model.config, lengths).full
    executor = executors.start(RerankConfig(model=model.path, device="cpu", max_length=MAX_LENGTH))
    with closing(executor):
        _round(executor, pairs[:5], products, operations * 5 // len(pairs))
        rounds, start = [], time.perf_counter()
        while not rounds or time.perf_counter() - start < seconds:
            rounds.append(_round(executor, pairs, products, operations))
    shares = [floor.wall / ours.wall for ours, floor in rounds]
    return {
        "model": model.name,
        "workload": workload,
        "pairs": len(pairs),
        "real_tokens": sum(lengths),
        "seconds": median(ours.wall for ours, _ in rounds),
        "share": median(shares),
        "cpu_share": median(floor.cpu / ours.cpu for ours, floor in rounds),
        "all_shares": [round(share, 3) for share in shares],
    }


def _round(
    executor: Executor, pairs: Sequence[tuple[str, str]], products: Products, operations: int
) -> tuple[Seconds, Seconds]:
    """Score once; return the seconds of that, and of the products between its batches."""
    spent = [Seconds(0.0, 0.0)]

    def between(count: int) -> None:
        spent[0] += _timed(lambda: products.run(operations * count // len(pairs)))

    whole = _timed(lambda: executor.submit(pairs, between).result())
    return whole - spent[0], spent[0]


def _timed(run: Callable[[], object]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


class Products:
    """Matrix products in the shapes of a model's linear layers, of 2,048 rows, by all threads.

    Args:
        config: The model's config.json.
    """

    _ROWS: Final = 2048

    def __init__(self, config: dict[str, Any]) -> None:
        import torch

        hidden, width = config["hidden_size"], config["intermediate_size"]
        shapes = ((hidden, 3 * hidden), (hidden, hidden), (hidden, width), (width, hidden))
        self._tensors = [
            (torch.randn(self._ROWS, inner), torch.randn(outer, inner).t(), torch.empty(self._ROWS, outer))
            for inner, outer in shapes
        ]
        self._operations_of_row = sum(2 * inner * outer for inner, outer in shapes)

    def run(self, operations: int) -> None:
        """Compute so many operations."""
        rows = operations // self._operations_of_row
        while rows > 0:
            self._multiply(min(rows, self._ROWS))
            rows -= self._ROWS

    def _multiply(self, rows: int) -> None:
        import torch

        for left, right, out in self._tensors:
            torch.mm(left[:rows], right, out=out[:rows])


if __name__ == "__main__":
    main()
