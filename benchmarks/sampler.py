"""Where time goes, by package: looks at the running Python stacks every few milliseconds."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Sampler"]

_SECONDS: Final = 0.002
_OURS: Final = "flag_rerank_integrations"
_REST: Final = "Python"
# A thread whose innermost frame lies in one of these waits for another thread.
_WAITING: Final = ("threading.py", "queue.py", "selectors.py", "_base.py")


class Sampler:
    """Charges the time of a `with` block to packages.

    Each stretch of time goes to the innermost package on the stack: what torch does for
    transformers is torch's, what the standard library does for a package is that package's. Where
    the main thread waits, the thread that it waits for is looked at.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._main = threading.get_ident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        last = time.perf_counter()
        while not self._stop.wait(_SECONDS):
            now = time.perf_counter()
            package = self._current()
            self.seconds[package] = self.seconds.get(package, 0.0) + now - last
            last = now

    def _current(self) -> str:
        frames = sys._current_frames()  # noqa: SLF001 - the one documented way to see other threads
        main = frames.pop(self._main)
        frames.pop(threading.get_ident(), None)
        if Path(main.f_code.co_filename).name not in _WAITING:
            return _package(main)
        busy = (frame for frame in frames.values() if Path(frame.f_code.co_filename).name not in _WAITING)
        return next(map(_package, busy), _REST)


def _package(frame: FrameType | None) -> str:
    """Return the innermost package on a stack that is neither the standard library nor this benchmark."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if name == _OURS or "site-packages" in frame.f_code.co_filename:
            return name
        frame = frame.f_back
    return _REST
