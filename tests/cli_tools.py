"""Runs the command as its users do: in a process of its own, through pipes or on a terminal."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import termios
from typing import NamedTuple

COMMAND = [sys.executable, "-m", "flag_rerank_integrations"]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def flag_rerank(*arguments: str, stdin: str | bytes = b"", **environment: str) -> Outcome:
    """Run the command through pipes; output is read as UTF-8."""
    finished = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        env={**os.environ, **environment},
        timeout=110,
        check=False,
    )
    return Outcome(finished.returncode, finished.stdout.decode(), finished.stderr.decode())


def on_terminal(*arguments: str, columns: int = 60) -> Outcome:
    """Run the command on a terminal, where output and errors appear together."""
    ours, theirs = open_terminal(columns)
    # These would override the terminal's own size.
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = read_terminal(ours)
    os.close(ours)
    return Outcome(process.wait(timeout=60), shown.decode().replace("\r\n", "\n"), "")


def open_terminal(columns: int) -> tuple[int, int]:
    """Open a pseudo-terminal of some width; return our end and the program's."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    return ours, theirs


def read_terminal(ours: int, until: bytes | None = None) -> bytes:
    """Return what appears on a terminal, up to some bytes or the program's end."""
    shown = b""
    try:
        while block := os.read(ours, 1 << 16):
            shown += block
            if until is not None and until in shown:
                break
    except OSError:  # how Linux says that the other end is closed
        pass
    return shown
