"""`flag-rerank bench`: measure this machine, and recommend a configuration."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from flag_rerank_integrations import bench
from flag_rerank_integrations.bench import BenchResult, Grid, Limits, Rule, Workload, plot
from flag_rerank_integrations.bench.grid import DEFAULT_LENGTHS
from flag_rerank_integrations.bench.judging import DEFAULT_JUDGED_QUERIES, DEFAULT_TOP_K, Judging
from flag_rerank_integrations.bench.recommendation import GOALS
from flag_rerank_integrations.bench.workload import DEFAULT_PAIRS, DEFAULT_PASSAGES, Request
from flag_rerank_integrations.cli import output
from flag_rerank_integrations.cli.options import (
    Commands,
    add_model_options,
    add_number,
    add_parser,
    config_from,
    count_or_auto,
)
from flag_rerank_integrations.cli.texts import read_requests
from flag_rerank_integrations.config import QUICKSTART, RerankConfig
from flag_rerank_integrations.errors import ConfigError, InputError

__all__ = ["add_command"]

_DESCRIPTION: Final = """\
Measure this machine with your own texts: pairs a second, the time of one request, and peak memory, for every
combination of the lengths, token budgets, data types and devices that you name; then recommend one, and say why.
Every setting is measured in several rounds, in turn with the others, each time in a process of its own. One that
fails keeps the reason and stops nothing. Ctrl-C ends the measuring and keeps what is finished."""
_EPILOG: Final = """\
--texts reads JSON lines, each {"query": "...", "passages": ["...", ...]} or {"query": "...", "text": "..."}; or
passages alone, a line each, and then --queries reads the queries. Without it the demo's texts are used: docstrings
of Python's own library, which are short.

--qrels is a folder in BEIR's layout (corpus.jsonl, queries.jsonl, qrels/test.tsv) or a file of judgements beside
such files. Its queries are re-ranked at each length, and nDCG@10 then decides which lengths may be recommended; without
--texts, speeds are measured with its texts as well.

With --out, DIR gets results.json (all figures), bench.png (a plot) and recommended.json, which
Reranker.from_config("DIR/recommended.json") reads.

examples:
  flag-rerank bench --texts hits.jsonl --out bench
  flag-rerank bench --model BAAI/bge-reranker-v2-m3 --texts passages.txt --queries queries.txt --devices cuda:0 \\
      --max-lengths 256,512,1024 --dtypes float32,bfloat16 --token-budgets auto,32768
  flag-rerank bench --qrels scifact/ --max-lengths 128,256,512
  flag-rerank bench --devices cpu,cpu:2,cuda:0+cuda:1 --goal latency --passages 50"""
_FAILED: Final = 1
_INTERRUPTED: Final = 130
_LISTS: Final[dict[str, tuple[str, Callable[[str], Any], str]]] = {
    "max_lengths": ("max_length", int, "lengths to try (default: 128,256,512)"),
    "token_budgets": ("max_batch_tokens", count_or_auto, "token budgets to try (default: auto)"),
    "dtypes": ("dtype", str, "data types to try (default: auto)"),
    "devices": ("device", str, 'devices to try; "+" joins those of one setting: "cuda:0+cuda:1" (default: auto)'),
}

_T = TypeVar("_T")


def add_command(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command and its options."""
    parser = add_parser(
        commands,
        common,
        "bench",
        _run,
        usage="flag-rerank bench [options]",
        help="measure this machine and recommend a configuration",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    _add_texts(parser)
    grid = parser.add_argument_group("what to try (lists, with commas between the values)")
    for name, (_, kind, text) in _LISTS.items():
        grid.add_argument(f"--{name.replace('_', '-')}", type=_list_of(kind), metavar="LIST", help=text)
    _add_measuring(parser)
    _add_judged(parser)
    add_model_options(parser, QUICKSTART)


def _add_texts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("texts")
    group.add_argument("--texts", metavar="FILE", help="your own texts; see below (default: the demo's)")
    group.add_argument(
        "--queries", metavar="FILE", help="queries, a line each, where --texts has passages alone; or those of --qrels"
    )
    group.add_argument("--encoding", default="utf-8", help="the files' encoding (default: %(default)s)")
    add_number(group, "--passages", DEFAULT_PASSAGES, "N", "most passages of one request")
    add_number(group, "--pairs", DEFAULT_PAIRS, "N", "pairs to score in one pass")


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    limits, rule = Limits(), Rule()
    group = parser.add_argument_group("measuring and recommending")
    add_number(group, "--repeats", limits.repeats, "N", "rounds over all settings")
    add_number(
        group,
        "--seconds-per-point",
        limits.seconds_per_point,
        "S",
        "seconds to measure a setting for, over all rounds, loading not included",
    )
    group.add_argument(
        "--goal",
        choices=GOALS,
        default=rule.goal,
        help="many requests at once, or one by itself (default: %(default)s)",
    )
    add_number(
        group,
        "--max-truncated",
        rule.max_truncated,
        "SHARE",
        "largest share of passages that the recommended length may cut",
    )
    group.add_argument("--out", metavar="DIR", help="write results.json, bench.png and recommended.json there")
    group.add_argument("--no-plot", action="store_true", help="leave out bench.png, which needs the extra `bench`")
    group.add_argument("--json", action="store_true", help="write one JSON object instead of the table")


def _add_judged(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("judged queries")
    group.add_argument("--qrels", metavar="PATH", help="BEIR folder or judgements: measure nDCG@10 at each length too")
    group.add_argument("--corpus", metavar="FILE", help="its passages, where they do not lie beside it")
    group.add_argument("--run", metavar="FILE", help="its first stage, a TREC run (default: BM25 over its passages)")
    add_number(group, "--top-k", DEFAULT_TOP_K, "K", "candidates to re-rank for a query")
    add_number(
        group, "--limit-queries", DEFAULT_JUDGED_QUERIES, "N", "most judged queries to take, spread over the set"
    )
    add_number(
        group,
        "--min-ndcg-ratio",
        Rule().min_ndcg_ratio,
        "SHARE",
        "share of the best length's nDCG@10 that the recommended one must keep",
    )


def _list_of(kind: Callable[[str], _T]) -> Callable[[str], tuple[_T, ...]]:
    """Return what reads a list of values of one kind."""

    def values(text: str) -> tuple[_T, ...]:
        return tuple(kind(item.strip()) for item in text.split(",") if item.strip())

    return values


def _run(arguments: argparse.Namespace) -> int:
    config = config_from(arguments)
    grid = _grid(arguments, config)
    grid.settings(config)  # refuses what can never be right before any file is read
    limits = Limits(arguments.repeats, arguments.seconds_per_point)
    rule = Rule(arguments.goal, arguments.max_truncated, arguments.min_ndcg_ratio)
    directory = _prepared(arguments)
    judging = _judging(arguments)
    workload = _workload(arguments, judging)
    watched = output.is_terminal(sys.stderr)
    if not arguments.verbose:  # the report says how much each length cuts
        logging.getLogger("flag_rerank_integrations.truncation").setLevel(logging.ERROR)
    result = bench.run(config, grid, workload, limits=limits, rule=rule, judge=judging, progress=watched)
    if arguments.json:
        output.write_json(bench.as_dict(result))
    else:
        print(bench.as_text(result))
    sys.stdout.flush()
    if directory is not None:
        _write(result, directory, plotted=not arguments.no_plot)
    if result.interrupted:
        output.complain(f"interrupted: kept {result.rounds} of {result.planned} measurements")
        return _INTERRUPTED
    return 0 if any(row.measured for row in result.rows) else _FAILED


def _grid(arguments: argparse.Namespace, config: RerankConfig) -> Grid:
    """Combine the lists that were given; the single option of the same meaning stands for a list of one."""
    axes = {}
    for name, (single, _, _) in _LISTS.items():
        given = getattr(arguments, name)
        if given is not None and hasattr(arguments, single):
            msg = f"--{name.replace('_', '-')} and --{single.replace('_', '-')} say the same: give one of them"
            raise ConfigError(msg)
        axes[name] = (getattr(config, single),) if given is None else given
    if arguments.max_lengths is None and not hasattr(arguments, "max_length"):
        axes["max_lengths"] = DEFAULT_LENGTHS
    axes["devices"] = tuple(_joined(device) for device in axes["devices"])
    return Grid(**axes)


def _joined(device: str | tuple[str, ...]) -> str | tuple[str, ...]:
    return tuple(device.split("+")) if isinstance(device, str) and "+" in device else device


def _prepared(arguments: argparse.Namespace) -> Path | None:
    """Make the directory, and refuse before the measuring what would fail after it."""
    if arguments.out is None:
        return None
    if not arguments.no_plot:
        plot.check()
    directory = Path(arguments.out)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        msg = f"cannot write to {arguments.out}: {getattr(error, 'strerror', None) or error}"
        raise InputError(msg) from error
    return directory


def _judging(arguments: argparse.Namespace) -> Judging | None:
    """Read the judged queries; options of theirs without them are a mistake."""
    if arguments.qrels is not None:
        return Judging.from_files(
            arguments.qrels,
            corpus=arguments.corpus,
            queries=arguments.queries,
            run=arguments.run,
            top_k=arguments.top_k,
            limit=arguments.limit_queries,
        )
    for name in ("corpus", "run"):
        if getattr(arguments, name) is not None:
            msg = f"--{name} goes with --qrels, the judgements"
            raise ConfigError(msg)
    return None


def _workload(arguments: argparse.Namespace, judging: Judging | None) -> Workload:
    sizes = {"passages": arguments.passages, "pairs": arguments.pairs}
    if arguments.texts is not None:
        queries = arguments.queries if judging is None else None
        requests = read_requests(arguments.texts, queries, arguments.encoding, arguments.passages)
        return Workload.sample(requests, **sizes, source=arguments.texts)
    if judging is not None:
        return Workload.sample(judging.requests(), **sizes, source=judging.name)
    if arguments.queries is not None:
        msg = "--queries goes with --texts, which names the passages, or with --qrels"
        raise ConfigError(msg)
    return Workload.sample(_demo_requests(arguments.passages), **sizes, source="the demo's")


def _demo_requests(size: int) -> list[Request]:
    """Combine the demo's questions with docstrings of this Python's library."""
    from flag_rerank_integrations.demo.corpus import harvest
    from flag_rerank_integrations.demo.judgements import load

    try:
        entries = harvest()
    except FileNotFoundError as error:
        msg = f"{error} Name texts of your own with --texts."
        raise InputError(msg) from error
    return list(bench.paired([query.text for query in load()], [entry.text for entry in entries], size))


def _write(result: BenchResult, directory: Path, *, plotted: bool) -> None:
    """Write the files, and say so; a plot of an earlier run does not stay beside the figures of this one."""
    written = bench.write(result, directory)
    picture = directory / plot.FILE
    picture.unlink(missing_ok=True)
    if plotted and any(row.measured for row in result.rows):
        plot.draw(result, picture)
        written.append(picture)
    for path in written:
        output.complain(f"wrote {path}")
