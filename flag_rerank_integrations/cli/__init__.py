"""The command `flag-rerank`: rank passages, measure on judged data or this machine, list devices, run the demo.

Exit codes: 0 done; 1 it failed while running; 2 something given cannot be used (an option, a
file, a device, a model, a missing extra); 130 interrupted. Errors are one line on standard error.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
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
    with _interrupts() as interrupts:
        try:
            return _run(argv)
        except BrokenPipeError:
            _leave_pipe()
            return _DONE
        except (KeyboardInterrupt, Exception) as error:  # noqa: BLE001 - raised again where it is not on purpose
            return _told(error, interrupted=bool(interrupts))


def _run(argv: Sequence[str] | None) -> int:
    """Run the command that the arguments name; return its exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    if arguments.verbose:
        logging.getLogger("flag_rerank_integrations").setLevel(logging.INFO)
    code: int = arguments.command(arguments)
    sys.stdout.flush()
    return code


def _told(error: BaseException, *, interrupted: bool) -> int:
    """Tell of an error in one line, and return the exit code; what is no error on purpose is raised again."""
    unusable = isinstance(error, RerankError) and not isinstance(error, WorkerError)
    if not unusable and (interrupted or isinstance(error, KeyboardInterrupt)):
        output.complain("interrupted")
        return _INTERRUPTED
    if not isinstance(error, RerankError):
        raise error
    output.complain(str(error))
    return _UNUSABLE if unusable else _FAILED


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Note each Ctrl-C that comes inside; it raises KeyboardInterrupt as ever.

    Where that hits a library between taking a lock and noting so, what comes out at the end is another error: of
    giving back a lock that is not held.
    """
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.default_int_handler(number, frame)

    # Not where somebody else handles it, or ignores it, or in a thread, which may not choose.
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or not _in_main_thread():
        yield seen
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


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
