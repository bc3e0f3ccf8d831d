"""`flag-rerank rank`: order passages by a query."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Final

from flag_rerank_integrations.cli import output, passages
from flag_rerank_integrations.cli.options import Commands, add_model_options, add_parser, as_typed, config_from
from flag_rerank_integrations.cli.passages import Passage
from flag_rerank_integrations.cli.remote import add_remote_options, remote_config_from
from flag_rerank_integrations.config import DEFAULT_MODEL
from flag_rerank_integrations.errors import ConfigError, InputError
from flag_rerank_integrations.reranker_source import made_from
from flag_rerank_integrations.results import RankedPassage

__all__ = ["add_command"]

logger: Final = logging.getLogger(__name__)

_DESCRIPTION: Final = f"""\
Order passages by how well they answer a query, best first.

Passages are read from a file, or from standard input: a passage a line, or JSON lines, each a
string or an object whose text is under {", ".join(map(repr, passages.TEXT_KEYS))}. Without -q, every line must
be an object with a "query" of its own, and the passages of each query are ranked among themselves."""
_EPILOG: Final = """\
With --json every line of output is one object: rank (from 1), score, index (from 0, among the passages
read), line (from 1), truncated_tokens (null where a server scored), text, and layer (of a progressive ranking),
record (the object that was read) or query where there is one.

examples:
  flag-rerank rank -q "how many people live in Berlin?" passages.txt --model quickstart
  flag-rerank rank -q "什么是大熊猫?" passages.txt --device cuda:1 --top-n 5
  flag-rerank rank -q "what is a panda?" passages.txt --url http://localhost:8080
  jq -c '.hits[]' answer.json | flag-rerank rank -q "..." --json | jq -r .record.id"""
_LONG_WORK: Final = 64  # pairs; anything shorter is over before a bar helps
_NUMBERS_WIDTH: Final = 16


def add_command(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command and its options."""
    parser = add_parser(
        commands,
        common,
        "rank",
        _run,
        usage="flag-rerank rank [-q QUERY] [options] [FILE]",
        help="order passages by a query",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        default=passages.STDIN,
        help='the passages; "-", the default, is standard input',
    )
    parser.add_argument("-q", "--query", help="what the passages are ranked for")
    parser.add_argument("--top-n", type=int, metavar="N", help="most passages to show for a query (default: all)")
    parser.add_argument(
        "--threshold", type=float, metavar="SCORE", help="leave out passages that score less; applies before --top-n"
    )
    parser.add_argument("--json", action="store_true", help="write JSON lines instead of a table")
    parser.add_argument(
        "--format", choices=passages.FORMATS, default="auto", help="what the input is (default: auto, told by its look)"
    )
    parser.add_argument("--encoding", default="utf-8", help="the input's encoding (default: %(default)s)")
    add_model_options(parser, DEFAULT_MODEL)
    add_remote_options(parser)


def _run(arguments: argparse.Namespace) -> int:
    config = remote_config_from(arguments) or config_from(arguments)
    _check_limits(arguments.top_n, arguments.threshold)
    if arguments.file == passages.STDIN and output.is_terminal(sys.stdin):
        output.complain("reading passages from the keyboard, one a line; Ctrl-D ends")
    logger.info("Reading passages.")
    found = passages.read(arguments.file, arguments.format, arguments.encoding)
    if not found:
        output.complain("there are no passages to rank")
        return 0
    groups = _by_query(found, None if arguments.query is None else as_typed(arguments.query))
    watched = output.is_terminal(sys.stderr) and len(found) >= _LONG_WORK
    with made_from(config.replace(progress=watched)) as reranker:
        requests = [(query, [found[index].text for index in indices]) for query, indices in groups.items()]
        rankings = reranker.rank_many(requests, arguments.top_n, arguments.threshold)
    write = _write_json if arguments.json else _write_table
    for (query, indices), ranking in zip(groups.items(), rankings, strict=True):
        write(query if arguments.query is None else None, found, indices, ranking)
    return 0


def _check_limits(top_n: int | None, threshold: float | None) -> None:
    """Refuse before the model is loaded what it would refuse after."""
    if top_n is not None and top_n < 0:
        msg = f"--top-n must be at least 0, not {top_n}"
        raise ConfigError(msg)
    if threshold is not None and threshold != threshold:  # noqa: PLR0124 - only a NaN differs from itself
        msg = "--threshold must be a number"
        raise ConfigError(msg)


def _by_query(found: Sequence[Passage], query: str | None) -> dict[str, list[int]]:
    """Return the passages' indices by query, in the order in which the queries appear."""
    if query is not None:
        return {query: list(range(len(found)))}
    groups: dict[str, list[int]] = {}
    for index, passage in enumerate(found):
        if passage.query is None:
            msg = f"give a query with -q, or in every line of JSON: line {passage.line} has none"
            raise InputError(msg)
        groups.setdefault(passage.query, []).append(index)
    return groups


def _write_table(
    query: str | None, found: Sequence[Passage], indices: Sequence[int], ranking: Sequence[RankedPassage]
) -> None:
    """Write a table; on a terminal, passages are cut to its width."""
    if query is not None:
        print(f"query: {output.one_line(query)}")
    print(f"{'rank':>4}  {'score':>8}  passage")
    columns = output.room(_NUMBERS_WIDTH)
    for rank, ranked in enumerate(ranking, 1):
        text = output.cut(output.one_line(found[indices[ranked.index]].text), columns)
        print(f"{rank:>4}  {ranked.score:>8.4f}  {text}".rstrip())


def _write_json(
    query: str | None, found: Sequence[Passage], indices: Sequence[int], ranking: Sequence[RankedPassage]
) -> None:
    for rank, ranked in enumerate(ranking, 1):
        index = indices[ranked.index]
        passage = found[index]
        row: dict[str, object] = {
            "rank": rank,
            "score": ranked.score,
            "index": index,
            "line": passage.line,
            "truncated_tokens": ranked.truncated_tokens,
            "text": passage.text,
        }
        optional = {"layer": ranked.layer, "record": passage.record, "query": query}
        output.write_json({**row, **{key: value for key, value in optional.items() if value is not None}})
