"""One model on one device: encode, plan, forward, logits in the caller's order."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from flag_rerank_integrations import families
from flag_rerank_integrations.batching import computed_tokens, plan
from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import DeviceError
from flag_rerank_integrations.families.base import Family, Floats
from flag_rerank_integrations.pairs import EncodedPair, Pair, ScoredPairs
from flag_rerank_integrations.results import RerankStats

__all__ = ["ScoredBatch", "Scorer"]

logger = logging.getLogger(__name__)

# Token positions in one forward pass. On CPUs larger batches fall out of the caches; on
# accelerators smaller ones leave units idle. Where memory does not suffice it is halved.
_CPU_BUDGET: Final = 2048
_ACCELERATOR_BUDGET: Final = 16384


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """What one forward pass gave, for pairs named by their index."""

    indices: list[int]
    logits: list[float]
    truncated_tokens: list[int]


class Scorer:
    """Scores pairs with one model on one device; to be used from one thread.

    Args:
        config: Names the model and how to run it.
        device: Where to load it.

    Raises:
        RerankError: It cannot be loaded; the subclass says why.
    """

    def __init__(self, config: RerankConfig, device: Device) -> None:
        start = time.perf_counter()
        self._family: Family = families.load(config, device)
        seconds = dict(self._family.load_seconds)
        seconds["imports and files"] = time.perf_counter() - start - sum(seconds.values())
        budget = config.max_batch_tokens
        if not isinstance(budget, int):
            budget = _CPU_BUDGET if device.kind == "cpu" else _ACCELERATOR_BUDGET
        self._device = device
        self._stats = RerankStats(
            max_batch_tokens=budget, family=self._family.name, layout=self._family.layout, load_seconds=seconds
        )

    @property
    def device(self) -> Device:
        """Where the model is."""
        return self._device

    @property
    def stats(self) -> RerankStats:
        """The work done so far; an immutable snapshot, safe to read from any thread."""
        return self._stats

    def score(self, pairs: Sequence[Pair]) -> ScoredPairs:
        """Return the logits of pairs, in order."""
        logits, cut = [0.0] * len(pairs), [0] * len(pairs)
        for batch in self.steps(pairs):
            for index, logit, tokens in zip(batch.indices, batch.logits, batch.truncated_tokens, strict=True):
                logits[index], cut[index] = logit, tokens
        return ScoredPairs(logits, cut)

    def steps(self, pairs: Sequence[Pair], wanted: Callable[[int], bool] | None = None) -> Iterator[ScoredBatch]:
        """Score pairs batch by batch, so that a scheduler can turn to others in between.

        Args:
            pairs: Equal ones are scored once.
            wanted: Asked before each batch for each pair's index; what nobody wants any more is left out.

        Yields:
            One item per forward pass; every wanted index occurs exactly once overall.

        Raises:
            DeviceError: The device's memory does not suffice for a single pair.
        """
        owners: dict[Pair, list[int]] = {}
        for index, pair in enumerate(pairs):
            owners.setdefault(pair, []).append(index)
        start = time.perf_counter()
        encoded = self._family.encode(list(owners))
        self._count(pairs=len(pairs), seconds=time.perf_counter() - start)
        indices = list(owners.values())
        todo = self._plan(encoded, range(len(encoded)))
        while todo:
            batch = todo.popleft()
            if wanted is not None:
                batch = [i for i in batch if any(map(wanted, indices[i]))]
            if not batch:
                continue
            logits = self._forward([encoded[i] for i in batch])
            if logits is None:
                todo = self._plan(encoded, [*batch, *(i for later in todo for i in later)])
            else:
                yield _spread([indices[i] for i in batch], [encoded[i] for i in batch], logits)

    def close(self) -> None:
        """Free the model; safe to call twice."""
        self._family.close()

    def _plan(self, encoded: Sequence[EncodedPair], indices: Sequence[int]) -> deque[list[int]]:
        """Batch the pairs at these indices under the budget in force."""
        batches = plan([len(encoded[i]) for i in indices], self._stats.max_batch_tokens, self._family.layout)
        return deque([indices[i] for i in batch] for batch in batches)

    def _forward(self, batch: list[EncodedPair]) -> Floats | None:
        """Run one batch; None says that it did not fit into memory and the budget was halved."""
        start = time.perf_counter()
        try:
            logits = self._family.forward(batch)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            self._back_off(batch, error)
            return None
        lengths = [len(pair) for pair in batch]
        self._count(
            scored_pairs=len(batch),
            tokens=sum(lengths),
            computed_tokens=computed_tokens(lengths, self._family.layout),
            forward_passes=1,
            truncated_pairs=sum(pair.truncated_tokens > 0 for pair in batch),
            seconds=time.perf_counter() - start,
        )
        return logits

    def _back_off(self, batch: list[EncodedPair], error: RuntimeError | MemoryError) -> None:
        """Halve the token budget and remember it.

        Raises:
            DeviceError: The batch was a single pair.
        """
        used = computed_tokens([len(pair) for pair in batch], self._family.layout)
        if len(batch) == 1:
            msg = f"{self._device} is out of memory with a single pair of {used} tokens. Lower max_length."
            raise DeviceError(msg) from error
        budget = max(1, min(used, self._stats.max_batch_tokens) // 2)
        logger.warning("%s is out of memory with %d tokens: the budget is now %d.", self._device, used, budget)
        self._stats = replace(self._stats, max_batch_tokens=budget)
        self._count(oom_backoffs=1)

    def _count(self, **added: float) -> None:
        """Add to the figures; the snapshot is replaced as a whole, so readers never see half of it."""
        old = self._stats
        new = replace(old, **{name: getattr(old, name) + value for name, value in added.items()})
        padding = 1 - new.tokens / new.computed_tokens if new.computed_tokens else 0.0
        speed = new.tokens / new.seconds if new.seconds else 0.0
        self._stats = replace(new, padding_fraction=padding, tokens_per_second=speed)


def _spread(owners: list[list[int]], batch: list[EncodedPair], logits: Floats) -> ScoredBatch:
    """Give the score of each distinct pair to every index that asked for it."""
    result = ScoredBatch([], [], [])
    for indices, pair, logit in zip(owners, batch, logits.tolist(), strict=True):
        result.indices.extend(indices)
        result.logits.extend([logit] * len(indices))
        result.truncated_tokens.extend([pair.truncated_tokens] * len(indices))
    return result


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Tell running out of memory, on the device or here, from every other RuntimeError."""
    torch = sys.modules.get("torch")  # not imported for this: an ONNX worker has none, and no memory left for it
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    # torch raises a plain RuntimeError where the host's allocator fails.
    return "DefaultCPUAllocator: not enough memory" in str(error) or "can't allocate memory" in str(error)
