"""Progress bars over pairs: one for each call, or one over all calls of a longer work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["ProgressBar", "one_bar", "shared_bar"]


class ProgressBar:
    """A progress bar over pairs, on standard error."""

    def __init__(self, total: int, what: str = "reranking") -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(total=total, unit="pair", desc=what)

    def update(self, count: int) -> None:
        """Advance by some pairs; at the end, end the line: before whoever waits for the scores can go on and print."""
        self._bar.update(count)
        if self._bar.n >= self._bar.total:
            self._bar.close()

    def fill(self) -> None:
        """Advance to the end: all is done, whoever did it and told of it or not."""
        self._bar.update(self._bar.total - self._bar.n)

    def close(self, _future: object = None) -> None:
        """End the line."""
        self._bar.close()


_SHARED: ContextVar[ProgressBar | None] = ContextVar("flag_rerank_progress_bar", default=None)


def shared_bar() -> ProgressBar | None:
    """Return the bar that the calls made here advance, in place of bars of their own; None where there is none."""
    return _SHARED.get()


@contextmanager
def one_bar(total: int, what: str) -> Iterator[None]:
    """Show one bar over all pairs that rerankers score in here, whatever their option `progress` says.

    Args:
        total: How many pairs there will be.
        what: What is done with them.
    """
    bar = ProgressBar(total, what)
    token = _SHARED.set(bar)
    try:
        yield
        bar.fill()
    finally:
        _SHARED.reset(token)
        bar.close()
