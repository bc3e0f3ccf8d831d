"""Causal rerankers by query length and by vocabulary: `python -m benchmarks.causal --help`.

All passages of one query begin with the same tokens, so a long query can be read once and its keys
and values used again. With queries of growing length this shows from where on that wins: computed
tokens per real token, and time. The vocabulary must cost nothing while scoring: the same toy with a
small and a large one is run in processes of their own, and what each takes beyond its weights compared.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks import machine  # first of all: it sets the threads before torch is imported
from benchmarks.models import BenchModel, locate
from benchmarks.workloads import fixed_request

if TYPE_CHECKING:
    from benchmarks.systems import System

_RESULTS: Final = Path(__file__).parent / "results"
_VOCABULARIES: Final = ("causal-toy-32k", "causal-toy")
_MEMORY_WORKLOAD: Final = "1x40"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; print a table and write a JSON file."""
    options = _options(arguments)
    threads = machine.limit_threads(options.threads)
    warnings.filterwarnings("ignore")
    from benchmarks.report import table
    from benchmarks.systems import BASELINE, OURS, load, versions

    model = locate(options.model)
    systems = {name: load(name, model) for name in (OURS, BASELINE)}
    rows = []
    for passages in options.passages:
        for tokens in options.query_tokens:
            print(f"{passages} passages, query of {tokens} tokens", file=sys.stderr, flush=True)
            rows += _rows(model, systems, (tokens, passages), options)
    print(table(rows))
    result = {
        "device": machine.describe(threads),
        "versions": versions(),
        "memory": {} if options.without_memory else _memory(threads),
        "rows": [asdict(row) for row in rows],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\nWritten to {options.out}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.causal", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="causal-toy", help="a causal model; see README.md")
    parser.add_argument("--query-tokens", nargs="+", type=int, default=[8, 32, 96, 192, 320])
    parser.add_argument("--passages", nargs="+", type=int, default=[5, 40])
    parser.add_argument("--passage-tokens", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the result is their median")
    parser.add_argument("--threads", type=int, default=None, help="default: all CPUs")
    parser.add_argument("--without-memory", action="store_true", help="leave the two vocabularies out")
    parser.add_argument("--out", type=Path, default=_RESULTS / "causal.json", help="the JSON file")
    return parser.parse_args(arguments)


def _rows(
    model: BenchModel, systems: Mapping[str, System], shape: tuple[int, int], options: argparse.Namespace
) -> list[Any]:
    """Measure one length of query; the row's workload is "query tokens + passages x passage tokens"."""
    from benchmarks.floor import Gemm, work
    from benchmarks.measure import Limits, measure
    from benchmarks.reference import pair_ids, tokenizer_of
    from benchmarks.report import Row, row_of
    from benchmarks.systems import BASELINE

    tokenizer, (query_tokens, passages) = tokenizer_of(model), shape
    request = fixed_request(tokenizer, query_tokens, passages, options.passage_tokens)
    lengths = [len(pair_ids(tokenizer, model.kind, request[0], passage)) for passage in request[1]]
    limits = Limits(options.repeats, 300.0, short_seconds=3.0)
    found = measure(systems, [request], Gemm(model.config), model.config["vocab_size"], limits)
    rows = []
    for name, series in found.items():
        row = Row(model.name, f"{query_tokens} + {passages} x {options.passage_tokens}", name)
        row.pairs, row.real_tokens = len(lengths), sum(lengths)
        rows.append(row_of(row, series, found[BASELINE].scores, work(model.config, lengths)))
    return rows


def _memory(threads: int) -> dict[str, Any]:
    """Measure what scoring takes beyond the loaded model, by vocabulary."""
    from benchmarks.memory import peak_of
    from benchmarks.systems import OURS

    found: dict[str, Any] = {"workload": _MEMORY_WORKLOAD}
    for name in _VOCABULARIES:
        peak = peak_of(OURS, name, _MEMORY_WORKLOAD, threads)
        found[name] = peak if isinstance(peak, str) else asdict(peak)
        shown = peak if isinstance(peak, str) else f"{peak.scoring / 2**20:.0f} MiB beyond the loaded model"
        print(f"{name}, {_MEMORY_WORKLOAD}: {shown}")
    return found


if __name__ == "__main__":
    main()
