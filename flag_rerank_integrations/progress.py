"""A progress bar over the pairs of one call."""

from __future__ import annotations

__all__ = ["ProgressBar"]


class ProgressBar:
    """A progress bar over the pairs of one call, on standard error."""

    def __init__(self, total: int) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(total=total, unit="pair", desc="reranking")

    def update(self, count: int) -> None:
        """Advance by some pairs."""
        self._bar.update(count)

    def close(self, _future: object = None) -> None:
        """End the line."""
        self._bar.close()
