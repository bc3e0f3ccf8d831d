"""Messages between a process and its workers: a length, then one JSON object.

Plain data only: nothing that a worker sends can make its parent run code. JSON carries
any Python string, lone surrogates included, and gives a float64 back to the last bit.
"""

from __future__ import annotations

import json
import struct
from typing import IO, Any, Final

__all__ = ["GREETING", "read_frame", "write_frame"]

GREETING: Final = b"\0flag-rerank worker\0"
"""What a worker sends before its first frame: all before it was printed by something else."""

_HEADER: Final = struct.Struct("<Q")


def write_frame(stream: IO[bytes], message: dict[str, Any]) -> None:
    """Send one message.

    Raises:
        OSError: The other side is gone.
    """
    body = json.dumps(message, separators=(",", ":")).encode("ascii")
    stream.write(_HEADER.pack(len(body)) + body)
    stream.flush()


def read_frame(stream: IO[bytes]) -> dict[str, Any] | None:
    """Wait for one message; None says that the other side is gone."""
    header = _read(stream, _HEADER.size)
    if header is None:
        return None
    body = _read(stream, _HEADER.unpack(header)[0])
    if body is None:
        return None
    message: dict[str, Any] = json.loads(body)
    return message


def skip_to_greeting(stream: IO[bytes]) -> bool:
    """Pass over whatever was printed before the greeting; False says that none came."""
    seen = b""
    while not seen.endswith(GREETING):
        byte = stream.read(1)
        if not byte:
            return False
        seen = seen[-len(GREETING) :] + byte
    return True


def _read(stream: IO[bytes], count: int) -> bytes | None:
    parts = []
    while count:
        part = stream.read(count)
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
