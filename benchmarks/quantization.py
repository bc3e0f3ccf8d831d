"""What int8 gains and what it costs, on a real model and judged data: `python -m benchmarks.quantization --help`."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, Final

from benchmarks import machine  # first of all: it sets the threads before torch is imported
from benchmarks.models import BenchModel, locate
from benchmarks.workloads import parse

if TYPE_CHECKING:
    from benchmarks.judged import JudgedRequest
    from benchmarks.systems import Ours

_ROOT: Final = Path(__file__).resolve().parent.parent
_SHARED: Final = _ROOT.parent / "shared"
_EXACT: Final = "float32"
# What int8 must reach to be worth offering.
_FASTER: Final = 1.4
_SPEARMAN: Final = 0.995
_NDCG: Final = 0.003


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; print the results with a verdict and write a JSON file."""
    options = _options(arguments)
    threads = machine.limit_threads(options.threads)
    warnings.filterwarnings("ignore")
    from benchmarks.systems import versions

    model = locate(options.model)
    systems, refused = _load(model, options.without_quickstart)
    result: dict[str, Any] = {
        "device": machine.describe(threads),
        "versions": versions(),
        "model": model.name,
        "not_available": refused,
        "speed": [_speed(model, systems, workload, options) for workload in options.workloads],
        "quality": [_quality(directory, systems, options) for directory in options.data],
    }
    result["verdict"] = {name: _verdict(name, result) for name in systems if name != _EXACT}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    _print(result)
    print(f"\nWritten to {options.out}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantization", description=__doc__)
    model = _SHARED / "models" / "ms-marco-MiniLM-L-12-v2"
    data = [_SHARED / "data" / name for name in ("scifact", "cranfield", "xquad-en")]
    parser.add_argument("--model", default=str(model), help="a checkpoint directory, float weights")
    parser.add_argument("--data", nargs="*", type=Path, default=data, help="judged sets in BEIR layout")
    parser.add_argument("--queries", type=int, default=100, help="of each set")
    parser.add_argument("--depth", type=int, default=20, help="candidates of each query")
    parser.add_argument("--workloads", nargs="+", default=["1x5", "1x40", "4x50"], help="QUERIESxPASSAGES, for speed")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the result is their median")
    parser.add_argument("--threads", type=int, default=None, help="default: all CPUs")
    parser.add_argument("--without-quickstart", action="store_true", help="leave the int8 ONNX file out")
    parser.add_argument("--out", type=Path, default=_ROOT / "benchmarks" / "results" / "quantization.json")
    options = parser.parse_args(arguments)
    for path in (Path(options.model) / "config.json", *options.data):
        if not path.exists():
            parser.error(f"there is no {path}: name a checkpoint with --model and judged sets with --data")
    return options


def _load(model: BenchModel, without_quickstart: bool) -> tuple[dict[str, Ours], dict[str, str]]:  # noqa: FBT001 - an option
    """Load the float model and what int8 there is; return them and why others are not available."""
    from benchmarks.systems import Ours, said
    from flag_rerank_integrations.errors import RerankError

    systems, refused = {_EXACT: Ours(model)}, {}
    wanted: list[tuple[str, BenchModel, dict[str, str]]] = [("int8", model, {"quantization": "int8"})]
    if not without_quickstart:
        wanted.append(("int8 ONNX file", locate("quickstart"), {}))
    for name, source, options in wanted:
        try:
            systems[name] = Ours(source, **options)
        except RerankError as error:  # noqa: PERF203 - two of them
            refused[name] = said(error)
    return systems, refused


def _speed(
    model: BenchModel, systems: Mapping[str, Ours], workload: str, options: argparse.Namespace
) -> dict[str, Any]:
    from benchmarks.floor import Gemm
    from benchmarks.measure import Limits, measure
    from benchmarks.reference import tokenizer_of

    print(f"{model.name} {workload}: {', '.join(systems)}", file=sys.stderr, flush=True)
    requests = parse(workload).requests(tokenizer_of(model))
    pairs = sum(len(passages) for _, passages in requests)
    for system in systems.values():
        system.score(requests[:1])  # warm
    found = measure(systems, requests, Gemm(model.config), model.config["vocab_size"], Limits(options.repeats, 600.0))
    seconds = {name: median(series.wall) for name, series in found.items()}
    return {
        "workload": workload,
        "pairs_per_second": {name: round(pairs / spent, 2) for name, spent in seconds.items()},
        "times_faster": {name: round(seconds[_EXACT] / spent, 3) for name, spent in seconds.items()},
        "times_less_cpu": {
            name: round(median(found[_EXACT].cpu) / median(series.cpu), 3) for name, series in found.items()
        },
    }


def _quality(directory: Path, systems: Mapping[str, Ours], options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import judged

    print(f"{directory.name}: {options.queries} queries", file=sys.stderr, flush=True)
    requests = judged.read(directory, options.queries, options.depth)
    scores = {name: _scores(system, requests) for name, system in systems.items()}
    exact = scores[_EXACT]
    found: dict[str, Any] = {"data": directory.name, "queries": len(requests), "depth": options.depth}
    before = [judged.ndcg(request, one) for request, one in zip(requests, exact, strict=True)]
    found["ndcg"] = {_EXACT: round(fmean(before), 5)}
    for name in [name for name in scores if name != _EXACT]:
        after = [judged.ndcg(request, one) for request, one in zip(requests, scores[name], strict=True)]
        mean, low, high = judged.difference_interval(before, after)
        found["ndcg"][name] = round(fmean(after), 5)
        found[name] = {
            "ndcg_difference": round(mean, 5),
            "interval": [round(low, 5), round(high, 5)],
            "spearman": round(judged.spearman(_flat(exact), _flat(scores[name])), 6),
        }
    return found


def _scores(system: Ours, requests: Sequence[JudgedRequest]) -> list[list[float]]:
    """Score all candidates in one call; return the scores by query."""
    flat = iter(system.score([(request.query, request.passages) for request in requests]))
    return [[next(flat) for _ in request.passages] for request in requests]


def _flat(scores: Sequence[Sequence[float]]) -> list[float]:
    return [score for one in scores for score in one]


def _verdict(name: str, result: Mapping[str, Any]) -> dict[str, bool]:
    """Say what is met on every workload and on every data set."""
    return {
        f"at least {_FASTER} times faster": all(row["times_faster"][name] >= _FASTER for row in result["speed"]),
        f"Spearman at least {_SPEARMAN}": all(row[name]["spearman"] >= _SPEARMAN for row in result["quality"]),
        f"nDCG@10 within {_NDCG}": all(abs(row[name]["ndcg_difference"]) <= _NDCG for row in result["quality"]),
    }


def _print(result: Mapping[str, Any]) -> None:
    for row in result["speed"]:
        for name, speed in row["pairs_per_second"].items():
            print(f"{row['workload']:8} {name:16} {speed:9.1f} pairs/s  {row['times_faster'][name]:.2f} times {_EXACT}")
    for row in result["quality"]:
        for name, value in row["ndcg"].items():
            rest = row.get(name, {})
            print(f"{row['data']:12} {name:16} nDCG@10 {value:.4f}  {json.dumps(rest) if rest else ''}")
    for name, verdict in result["verdict"].items():
        for goal, met in verdict.items():
            print(f"{name}: {goal}: {'yes' if met else 'NO'}")
    for name, reason in result["not_available"].items():
        print(f"{name} is not available: {reason}")


if __name__ == "__main__":
    main()
