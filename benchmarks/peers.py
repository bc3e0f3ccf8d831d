"""This package and its peers on the same models and texts, in turn: `python -m benchmarks.peers --help`."""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import machine  # first of all: it sets the threads before torch is imported
from benchmarks.models import MODELS, BenchModel, locate
from benchmarks.workloads import DEFAULT_WORKLOADS, LONGEST_CAUSAL, MAX_LENGTH, fingerprint, parse

if TYPE_CHECKING:
    from benchmarks.floor import Gemm
    from benchmarks.report import Row
    from benchmarks.systems import System

_RESULTS: Final = Path(__file__).parent / "results"
_WARM_UP: Final = "1x5"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was asked for; print a table and write a JSON file."""
    options = _options(arguments)
    threads = machine.limit_threads(options.threads)
    warnings.filterwarnings("ignore")  # the peers' deprecations would bury the table
    from benchmarks import report, systems

    head = {
        "device": machine.describe(threads),
        "versions": systems.versions(),
        "settings": {"repeats": options.repeats, "row_seconds": options.row_seconds, "memory_on": options.memory},
    }
    rows: list[Row] = []
    for name in options.models:
        for row in _measure_model(name, options, threads):
            rows.append(row)
            report.write(options.out, head, rows)
    print(report.table(rows))
    for ratio in report.ratios(rows):
        faster = ", ".join(f"{name} {times}" for name, times in ratio["times_faster"].items())
        print(f"{ratio['model']} {ratio['workload']}, times faster than: {faster}")
    print(f"\nWritten to {options.out}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--models", nargs="+", default=None, help="names or checkpoint directories; see README.md")
    parser.add_argument("--workloads", nargs="+", default=None, help="QUERIESxPASSAGES, such as 4x50")
    parser.add_argument("--peers", nargs="+", default=None, help="systems to compare with; default all")
    parser.add_argument("--tuned", action="store_true", help="the peers also with small batches")
    parser.add_argument("--quick", action="store_true", help="the small encoder on 1x5 and 1x40, three rounds")
    parser.add_argument("--repeats", type=int, default=None, help="rounds; the result is their median (5)")
    parser.add_argument("--row-seconds", type=float, default=600.0, help="begin no new round of a row after these")
    parser.add_argument("--threads", type=int, default=None, help="default: all CPUs")
    parser.add_argument("--memory", default=None, help="workload for peak memory; `none` leaves it out")
    parser.add_argument("--out", type=Path, default=_RESULTS / "peers.json", help="the JSON file")
    options = parser.parse_args(arguments)
    quick = options.quick
    options.models = options.models or (["encoder-small"] if quick else list(MODELS))
    options.workloads = options.workloads or (["1x5", "1x40"] if quick else list(DEFAULT_WORKLOADS))
    options.repeats = options.repeats or (3 if quick else 5)
    if options.memory is None:
        options.memory = "4x50" if "4x50" in options.workloads else options.workloads[-1]
    return options


def _measure_model(name: str, options: argparse.Namespace, threads: int) -> Iterator[Row]:
    """Yield the rows of one model, each workload's when all its systems are done."""
    from benchmarks import reference
    from benchmarks.floor import Gemm
    from benchmarks.report import Row

    model = locate(name)
    tokenizer = reference.tokenizer_of(model)
    loaded, refused = _load(model, options)
    yield from (Row(model.name, "", system, failure=reason) for system, reason in refused.items())
    gemm = Gemm(model.config)
    for system in loaded.values():
        with contextlib.suppress(Exception):  # the measurement itself will meet it and tell
            system.score(parse(_WARM_UP).requests(tokenizer))
    for workload in options.workloads:
        print(f"{model.name} {workload}: {', '.join(loaded)}", file=sys.stderr, flush=True)
        rows = _measure_workload(model, workload, loaded, gemm, options)
        if workload == options.memory:
            _add_memory(rows, name, workload, threads)
        yield from rows
    for system in loaded.values():
        system.close()
    gc.collect()


def _load(model: BenchModel, options: argparse.Namespace) -> tuple[dict[str, System], dict[str, str]]:
    """Load the systems that were asked for, this package, and the baseline; return them and why others did not."""
    from benchmarks.systems import BASELINE, DEFAULT_SYSTEMS, OURS, SYSTEMS, Unsupported, load

    wanted = options.peers or (SYSTEMS if options.tuned else DEFAULT_SYSTEMS)
    loaded: dict[str, System] = {}
    refused: dict[str, str] = {}
    for name in SYSTEMS:
        if name not in (*wanted, OURS, BASELINE):
            continue
        try:
            loaded[name] = load(name, model)
        except Unsupported as reason:
            refused[name] = str(reason)
    return loaded, refused


def _measure_workload(
    model: BenchModel, workload: str, loaded: dict[str, System], gemm: Gemm, options: argparse.Namespace
) -> list[Row]:
    from benchmarks.floor import work
    from benchmarks.measure import Limits, measure
    from benchmarks.reference import pair_ids, tokenizer_of
    from benchmarks.report import Row, row_of
    from benchmarks.systems import BASELINE

    tokenizer = tokenizer_of(model)
    requests = parse(workload).requests(tokenizer, LONGEST_CAUSAL if model.kind == "causal" else MAX_LENGTH)
    lengths = [len(pair_ids(tokenizer, model.kind, query, text)) for query, texts in requests for text in texts]
    limits = Limits(options.repeats, options.row_seconds)
    found = measure(loaded, requests, gemm, model.config["vocab_size"], limits)
    operations = work(model.config, lengths)
    rows = []
    for name, series in found.items():
        row = Row(model.name, workload, name, loaded[name].settings, texts=fingerprint(requests))
        row.pairs, row.real_tokens = len(lengths), sum(lengths)
        rows.append(row_of(row, series, found[BASELINE].scores, operations))
    return rows


def _add_memory(rows: list[Row], model: str, workload: str, threads: int) -> None:
    """Run every system once more, each in a process of its own, for its peak memory."""
    from benchmarks.memory import peak_of

    for row in rows:
        if row.failure:
            continue
        peak = peak_of(row.system, model, workload, threads)
        if isinstance(peak, str):
            print(f"{row.system}: no peak memory: {peak}", file=sys.stderr)
        else:
            row.peak_memory, row.scoring_memory = peak.total, peak.scoring


if __name__ == "__main__":
    main()
