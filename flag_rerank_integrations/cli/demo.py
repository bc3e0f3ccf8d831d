"""`flag-rerank demo`: the whole job on real text."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from flag_rerank_integrations import demo
from flag_rerank_integrations.cli import output
from flag_rerank_integrations.cli.options import (
    Commands,
    add_model_options,
    add_number,
    add_parser,
    as_typed,
    config_from,
)
from flag_rerank_integrations.config import QUICKSTART
from flag_rerank_integrations.errors import InputError, MissingExtraError

__all__ = ["add_command"]

_DESCRIPTION: Final = """\
Answer judged questions from the docstrings of Python's own standard library: BM25 finds candidates, and one
loaded model re-ranks them through LangChain and through LlamaIndex. Shows a ranking before and after,
nDCG@10, MRR and their intervals, whether both frameworks agree, and the speed. Needs no hub and no LLM."""


def add_command(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command and its options."""
    parser = add_parser(
        commands,
        common,
        "demo",
        _run,
        usage="flag-rerank demo [options]",
        help="retrieve, re-rank and measure on real text",
        description=_DESCRIPTION,
    )
    parser.add_argument("-q", "--query", help="the question to show before and after (default: a judged one)")
    add_number(parser, "--top-k", demo.DEFAULT_TOP_K, "K", "candidates a question")
    parser.add_argument("--queries", type=int, metavar="N", help="how many judged questions to ask (default: all)")
    parser.add_argument("--json", action="store_true", help="write one JSON object instead of the report")
    add_model_options(parser, QUICKSTART)


def _run(arguments: argparse.Namespace) -> int:
    config = config_from(arguments)
    missing = demo.missing_distributions()
    if missing:
        msg = f"the demo needs {', '.join(missing)}: pip install 'flag-rerank-integrations[demo]'"
        raise MissingExtraError(msg)
    watched = output.is_terminal(sys.stderr)
    try:
        result = demo.run(
            config,
            top_k=arguments.top_k,
            limit=arguments.queries,
            question=None if arguments.query is None else as_typed(arguments.query),
            say=output.complain if watched or arguments.verbose else lambda _: None,
            progress=watched,
        )
    except FileNotFoundError as error:
        raise InputError(str(error)) from error
    if arguments.json:
        output.write_json(demo.as_dict(result))
    else:
        print(demo.as_text(result))
    return 0 if result.agreement.same_order == result.agreement.questions else 1
