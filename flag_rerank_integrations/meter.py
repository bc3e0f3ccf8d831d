"""Counts the work of one scorer, and halves its batches where a device runs out of memory."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from flag_rerank_integrations.batching import computed_tokens
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import DeviceError
from flag_rerank_integrations.pairs import EncodedPair, Layout
from flag_rerank_integrations.results import RerankStats

__all__ = ["Meter"]

logger: Final = logging.getLogger(__name__)

_T = TypeVar("_T")


class Meter:
    """Keeps the figures of the work done on one device.

    Args:
        device: For messages.
        stats: The figures to begin with; `max_batch_tokens` is the budget.
    """

    def __init__(self, device: Device, stats: RerankStats) -> None:
        self.device: Device = device
        self._begun = stats
        self._layout: Layout = stats.layout  # type: ignore[assignment] # a plain string for its readers
        # Replaced as a whole, so that readers in other threads never see half of a change. A `RerankStats`
        # takes ten times as long to make, and there are several counts in a call.
        self._figures: dict[str, Any] = {}

    @property
    def stats(self) -> RerankStats:
        """The work done so far; an immutable snapshot, safe to read from any thread."""
        stats = replace(self._begun, **self._figures)
        padding = 1 - stats.tokens / stats.computed_tokens if stats.computed_tokens else 0.0
        speed = stats.tokens / stats.seconds if stats.seconds else 0.0
        return replace(stats, padding_fraction=padding, tokens_per_second=speed)

    @property
    def budget(self) -> int:
        """The most tokens in one batch, now."""
        return int(self._figures.get("max_batch_tokens", self._begun.max_batch_tokens))

    def timed(self, run: Callable[[], _T]) -> _T:
        """Run something that counts as scoring."""
        start = time.perf_counter()
        try:
            return run()
        finally:
            self.count(seconds=time.perf_counter() - start)

    def attempt(self, batch: Sequence[EncodedPair], run: Callable[[], _T], *, first: bool) -> _T | None:
        """Run one batch; None says that it did not fit into memory and the budget was halved.

        Args:
            batch: The pairs.
            run: Does it.
            first: Whether these pairs are run for the first time; later stages count as passes only.

        Raises:
            DeviceError: The batch was a single pair.
        """
        try:
            result = self.timed(run)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            self._back_off(batch, error)
            return None
        lengths = [len(pair) for pair in batch] if first else []
        self.count(
            windows=len(lengths),
            tokens=sum(lengths),
            computed_tokens=computed_tokens(lengths, self._layout),
            forward_passes=1,
        )
        return result

    def count_scored(self, pairs: Sequence[EncodedPair]) -> None:
        """Count pairs whose score is there."""
        self.count(
            scored_pairs=len(pairs),
            windowed_pairs=sum(bool(pair.rest) for pair in pairs),
            truncated_pairs=sum(pair.truncated_tokens > 0 for pair in pairs),
            truncated_tokens=sum(pair.truncated_tokens for pair in pairs),
            truncated_queries=sum(pair.truncated_query_tokens > 0 for pair in pairs),
        )

    def count(self, **added: float) -> None:
        """Add to the figures."""
        figures = dict(self._figures)
        for name, value in added.items():
            figures[name] = figures.get(name, 0) + value
        self._figures = figures

    def _back_off(self, batch: Sequence[EncodedPair], error: RuntimeError | MemoryError) -> None:
        """Halve the token budget and remember it.

        Raises:
            DeviceError: The batch was a single pair.
        """
        used = computed_tokens([len(pair) for pair in batch], self._layout)
        if len(batch) == 1:
            msg = f"{self.device} is out of memory with a single pair of {used} tokens. Lower max_length."
            raise DeviceError(msg) from error
        budget = max(1, min(used, self.budget) // 2)
        logger.warning("%s is out of memory with %d tokens: the budget is now %d.", self.device, used, budget)
        self._figures = {**self._figures, "max_batch_tokens": budget}
        self.count(oom_backoffs=1)


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Tell running out of memory, on the device or here, from every other RuntimeError."""
    torch = sys.modules.get("torch")  # not imported for this: an ONNX worker has none, and no memory left for it
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    # torch raises a plain RuntimeError where the host's allocator fails.
    return "DefaultCPUAllocator: not enough memory" in str(error) or "can't allocate memory" in str(error)
