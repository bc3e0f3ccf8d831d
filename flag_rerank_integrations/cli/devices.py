"""`flag-rerank devices`: what this machine has, and what "auto" takes."""

from __future__ import annotations

import argparse
from typing import Final

from flag_rerank_integrations.cli import output
from flag_rerank_integrations.cli.options import Commands, add_parser

__all__ = ["add_command"]

_DESCRIPTION: Final = """\
List the devices that this process may use, with their memory, and say which one "auto" takes and why.
Nothing is allocated on any of them."""
_GIBIBYTE: Final = 1 << 30


def add_command(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command and its options."""
    parser = add_parser(
        commands,
        common,
        "devices",
        _run,
        help='list devices and what "auto" takes',
        description=_DESCRIPTION,
    )
    parser.add_argument("--json", action="store_true", help="write one JSON object instead of a table")


def _run(arguments: argparse.Namespace) -> int:
    from flag_rerank_integrations.devices import choose, explain_auto, inventory

    found = inventory()
    if arguments.json:
        rows = [
            {
                "device": str(info.device),
                "name": info.name,
                "free_memory": info.free_memory,
                "total_memory": info.total_memory,
            }
            for info in found
        ]
        output.write_json({"devices": rows, "auto": str(choose(found).device), "reason": explain_auto(found)})
        return 0
    print(f"{'device':<8}  {'free':>10}  {'total':>10}  name")
    for info in found:
        free, total = _gibibytes(info.free_memory), _gibibytes(info.total_memory)
        print(f"{info.device!s:<8}  {free:>10}  {total:>10}  {output.one_line(info.name)}")
    print(explain_auto(found))
    return 0


def _gibibytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / _GIBIBYTE:.1f} GiB"
