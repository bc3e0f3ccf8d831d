"""The command `flag-rerank`: rank passages, measure on judged data or this machine, list devices, run the demo.

Exit codes: 0 done; 1 it failed while running; 2 something given cannot be used (an option, a
file, a device, a model, a missing extra); 130 interrupted. Errors are one line on standard error.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Final

from flag_rerank_integrations import __version__
from flag_rerank_integrations.cli import bench, demo, devices, eval, output, rank  # noqa: A004 - a command's name
from flag_rerank_integrations.errors import RerankError, WorkerError

__all__ = ["main"]

_DONE: Final = 0
_FAILED: Final = 1
_UNUSABLE: Final = 2
_INTERRUPTED: Final = 130

_DESCRIPTION: Final = """\
Rank passages by how well they answer a query, with a cross-encoder, on the device you choose."""
_EPILOG: Final = """\
examples:
  flag-rerank demo                                            the whole job on real text, no network needed
  flag-rerank rank -q "what is a panda?" passages.txt         one passage a line
  cat hits.jsonl | flag-rerank rank -q "..." --top-n 5 --json
  flag-rerank eval scifact --run bm25.trec.gz                 does re-ranking help on judged data?
  flag-rerank devices                                         what there is, and what "auto" takes
  flag-rerank bench --texts hits.jsonl --out bench            which length, type and device suit this machine

exit codes: 0 done, 1 failed while running, 2 something given cannot be used, 130 interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments after the program's name; by default those of this process.

    Returns:
        The exit code.

    Raises:
        SystemExit: The arguments cannot be parsed (code 2), or `--help` or `--version` was asked for (0).
    """
    output.prepare_streams()
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
        logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
        if arguments.verbose:
            logging.getLogger("flag_rerank_integrations").setLevel(logging.INFO)
        code: int = arguments.command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_pipe()
        return _DONE
    except KeyboardInterrupt:
        output.complain("interrupted")
        return _INTERRUPTED
    except RerankError as error:
        output.complain(str(error))
        return _FAILED if isinstance(error, WorkerError) else _UNUSABLE
    return code


def _parser() -> argparse.ArgumentParser:
    """Build the parser of all commands; each leaves its function in `command`."""
    parser = argparse.ArgumentParser(
        prog="flag-rerank",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"flag-rerank {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-v", "--verbose", action="store_true", help="log what is done to standard error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (rank, eval, bench, devices, demo):
        module.add_command(commands, common)
    return parser


def _leave_pipe() -> None:
    """Point standard output at nothing, so that the exit does not try to write to a reader who left."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
