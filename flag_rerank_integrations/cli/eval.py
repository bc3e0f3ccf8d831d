"""`flag-rerank eval`: what re-ranking does on judged data."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import re
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

from flag_rerank_integrations import evaluation
from flag_rerank_integrations.cli import output
from flag_rerank_integrations.cli.options import Commands, add_model_options, add_number, add_parser, config_from
from flag_rerank_integrations.cli.remote import add_remote_options, remote_config_from
from flag_rerank_integrations.config import DEFAULT_MODEL
from flag_rerank_integrations.errors import ConfigError, InputError
from flag_rerank_integrations.evaluation.measures import check_measures
from flag_rerank_integrations.evaluation.report import as_text, check_table_name, write_per_query
from flag_rerank_integrations.evaluation.runs import check_run_ids
from flag_rerank_integrations.reranker_source import made_from

__all__ = ["add_command"]

logger: Final = logging.getLogger(__name__)

_DESCRIPTION: Final = """\
Re-rank what a first stage found for judged queries, and say by how much that made it better: nDCG@10, RR@10
and recall of both rankings, with 95% intervals and p-values from a paired bootstrap over queries.

FOLDER holds judged data as BEIR publishes it: corpus.jsonl, queries.jsonl, and qrels/test.tsv or qrels.tsv.
The first stage is a TREC run; without --run it is BM25 over the corpus, by bm25s. Files may be gzipped."""
_EPILOG: Final = """\
examples:
  flag-rerank eval scifact --model quickstart --limit-queries 40
  flag-rerank eval scifact --run bm25.trec.gz --top-k 50 --device cuda:0 --out-run reranked.trec
  flag-rerank eval --corpus collection.tsv --queries topics.tsv --qrels qrels.txt --run bm25.trec
  flag-rerank eval scifact --measures "nDCG@10,AP,recall@20" --per-query queries.csv --json"""
# A comma between measures, not one between the arguments of a measure.
_SEPARATOR: Final = re.compile(r",(?![^(]*\))")
_NO_FIRST_STAGE: Final = (
    "there is no first stage: give a TREC run with --run (lines of query id, Q0, passage id, rank, score, tag; "
    "Pyserini, Anserini, Terrier and ranx write it), or install what finds candidates by BM25: "
    "pip install 'flag-rerank-integrations[eval]'"
)


def add_command(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command and its options."""
    parser = add_parser(
        commands,
        common,
        "eval",
        _run,
        usage="flag-rerank eval [options] [FOLDER]",
        help="measure re-ranking on judged data",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    _add_data_options(parser)
    add_number(
        parser,
        "--top-k",
        evaluation.DEFAULT_TOP_K,
        "K",
        "passages of each query to re-rank; those behind them stay behind them",
    )
    parser.add_argument(
        "--measures",
        metavar="NAMES",
        help='separated by commas, as ir-measures names them (default: "nDCG@10,RR@10,R@10" and recall at K)',
    )
    parser.add_argument(
        "--limit-queries", type=int, metavar="N", help="take N of the judged queries, spread evenly (default: all)"
    )
    add_number(parser, "--seed", 0, "N", "of the bootstrap")
    parser.add_argument("--out-run", metavar="FILE", help="write the re-ranked run to FILE, in TREC's form")
    parser.add_argument("--per-query", metavar="FILE", help="write every query's measures to FILE, .csv or .json")
    parser.add_argument("--json", action="store_true", help="write one JSON object instead of the report")
    add_model_options(parser, DEFAULT_MODEL)
    add_remote_options(parser)


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="judged data in BEIR's layout")
    group = parser.add_argument_group("data")
    group.add_argument("--run", metavar="FILE", help="the first stage, a TREC run (default: BM25 over the corpus)")
    group.add_argument("--split", help="read the folder's qrels/SPLIT.tsv (default: qrels/test.tsv or qrels.tsv)")
    group.add_argument("--qrels", metavar="FILE", help="the judgements, in BEIR's or TREC's form")
    group.add_argument("--queries", metavar="FILE", help="the queries: JSON lines, or .tsv with id and text")
    group.add_argument("--corpus", metavar="FILE", help="the passages: JSON lines, or .tsv with id and text")


def _run(arguments: argparse.Namespace) -> int:
    config = remote_config_from(arguments) or config_from(arguments)
    measures = _measures(arguments)
    _check_outputs(arguments)
    logger.info("Reading judged data.")
    run = None if arguments.run is None else evaluation.read_run(arguments.run)
    if run is None and importlib.util.find_spec("bm25s") is None:
        raise InputError(_NO_FIRST_STAGE)
    judged = _judged(arguments, run)
    # Not started here: what is wrong with the data is told before a model is loaded.
    with closing(made_from(config, start=False)) as reranker:
        result = evaluation.evaluate(
            judged,
            reranker,
            run,
            top_k=arguments.top_k,
            measures=measures,
            limit_queries=arguments.limit_queries,
            seed=arguments.seed,
            progress=output.is_terminal(sys.stderr),
        )
    if arguments.json:
        first_stage = "BM25 by bm25s" if run is None else Path(arguments.run).name
        output.write_json({"config": config.to_dict(), "first_stage": first_stage, **result.to_dict()})
    else:
        print(as_text(result))
    if arguments.out_run:
        evaluation.write_run(arguments.out_run, result.reranked, tag="flag-rerank")
    if arguments.per_query:
        write_per_query(arguments.per_query, result)
    return 0


def _measures(arguments: argparse.Namespace) -> list[str] | None:
    """Return the measures asked for; refuse before anything is read what would be refused later."""
    if arguments.top_k < 1:
        msg = f"--top-k must be at least 1, not {arguments.top_k}"
        raise ConfigError(msg)
    if arguments.limit_queries is not None and arguments.limit_queries < 1:
        msg = f"--limit-queries must be at least 1, not {arguments.limit_queries}"
        raise ConfigError(msg)
    if arguments.seed < 0:
        msg = f"--seed must be at least 0, not {arguments.seed}"
        raise ConfigError(msg)
    if arguments.measures is None:
        check_measures(evaluation.default_measures(arguments.top_k))
        return None
    names = list(dict.fromkeys(name.strip() for name in _SEPARATOR.split(arguments.measures) if name.strip()))
    check_measures(names)
    return names


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Refuse files that cannot be written before hours of work are spent on what they shall hold."""
    if arguments.per_query:
        check_table_name(arguments.per_query)
    for name in filter(None, (arguments.out_run, arguments.per_query)):
        path = Path(name)
        if path.is_dir() or not path.parent.is_dir():
            msg = f"cannot write {name}: {'it is a folder' if path.is_dir() else f'there is no folder {path.parent}'}"
            raise InputError(msg)


def _judged(arguments: argparse.Namespace, run: evaluation.Run | None) -> evaluation.JudgedSet:
    """Read the data; with a run, of the passages only those that will be ranked."""
    given = {name: getattr(arguments, name) for name in ("corpus", "queries", "qrels")}
    if arguments.folder is None and None in given.values():
        missing = ", ".join(f"--{name}" for name, value in given.items() if value is None)
        msg = f"name a folder of judged data, or its files; missing: {missing}"
        raise InputError(msg)
    only = None if run is None else {hit.passage_id for hits in run.values() for hit in hits[: arguments.top_k]}
    judged = evaluation.JudgedSet.from_folder(arguments.folder, split=arguments.split, only=only, **given)
    if arguments.out_run:
        check_run_ids(judged.queries)
        check_run_ids(judged.corpus)
    return judged
