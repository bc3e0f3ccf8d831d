"""One model on one device: encode, plan, forward, logits in the caller's order."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Final, TypeVar

import numpy as np

from flag_rerank_integrations import families
from flag_rerank_integrations.batching import computed_tokens, plan
from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import ConfigError, DeviceError
from flag_rerank_integrations.families.base import Family, Floats, LayeredFamily
from flag_rerank_integrations.pairs import SCORE, EncodedPair, Pair, ScoredBatch, ScoredPairs, Task
from flag_rerank_integrations.progressive import PrunedRun, Ranking
from flag_rerank_integrations.results import RerankStats

__all__ = ["Scorer"]

logger = logging.getLogger(__name__)

# Token positions in one forward pass. On CPUs larger batches fall out of the caches; on
# accelerators smaller ones leave units idle. Where memory does not suffice it is halved.
_CPU_BUDGET: Final = 2048
_ACCELERATOR_BUDGET: Final = 16384
_T = TypeVar("_T")


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
        self._progressive = config.progressive or ()
        self._stats = RerankStats(
            max_batch_tokens=budget, family=self._family.name, layout=self._family.layout, load_seconds=seconds
        )

    @property
    def stats(self) -> RerankStats:
        """The work done so far; an immutable snapshot, safe to read from any thread."""
        return self._stats

    @property
    def budget(self) -> int:
        """The most tokens in one batch, now."""
        return self._stats.max_batch_tokens

    def score(self, pairs: Sequence[Pair], task: Task = SCORE) -> ScoredPairs:
        """Return the logits of pairs, in order; see `Task` for what else may be asked."""
        places = task.places(len(pairs))
        logits, cut, layers = [0.0] * places, [0] * places, [0] * places
        for batch in self.steps(pairs, task=task):
            for index, logit, tokens in zip(batch.indices, batch.logits, batch.truncated_tokens, strict=True):
                logits[index], cut[index], layers[index] = logit, tokens, batch.layer or 0
        return ScoredPairs(logits, cut, layers if task.counts else None)

    def steps(
        self, pairs: Sequence[Pair], wanted: Callable[[int], bool] | None = None, task: Task = SCORE
    ) -> Iterator[ScoredBatch]:
        """Score pairs batch by batch, so that a scheduler can turn to others in between.

        Args:
            pairs: Equal ones are scored once.
            wanted: Asked before each batch for each pair's index; what nobody wants any more is left out.
            task: What is asked of them.

        Yields:
            One item per forward pass, and more where pairs are dropped; every wanted place of the
            answer occurs exactly once overall.

        Raises:
            ConfigError: The model has no layers to read, or not those that are asked for.
            DeviceError: The device's memory does not suffice for a single pair.
        """
        self._check(task)
        owners: dict[Pair, list[int]] = {}
        for index, pair in enumerate(pairs):
            owners.setdefault(pair, []).append(index)
        start = time.perf_counter()
        encoded = self._family.encode(list(owners))
        self._count(pairs=len(pairs), seconds=time.perf_counter() - start)
        indices = list(owners.values())
        if task.counts:
            yield from self._prune(encoded, _rankings(indices, task.counts), wanted or _always)
            return
        todo = self._plan(encoded, range(len(encoded)))
        while todo:
            batch = todo.popleft()
            if wanted is not None:
                batch = [i for i in batch if any(map(wanted, indices[i]))]
            if not batch:
                continue
            read = [encoded[i] for i in batch]
            logits = self.attempt(read, partial(self._forward, read, task.layers), first=True)
            if logits is None:
                todo = self._plan(encoded, [*batch, *(i for later in todo for i in later)])
            else:
                yield _spread([indices[i] for i in batch], read, logits, len(pairs))

    def close(self) -> None:
        """Free the model; safe to call twice."""
        self._family.close()

    def _plan(self, encoded: Sequence[EncodedPair], indices: Sequence[int]) -> deque[list[int]]:
        """Batch the pairs at these indices under the budget in force."""
        batches = plan([len(encoded[i]) for i in indices], self._stats.max_batch_tokens, self._family.layout)
        return deque([indices[i] for i in batch] for batch in batches)

    def attempt(self, batch: Sequence[EncodedPair], run: Callable[[], _T], *, first: bool) -> _T | None:
        """Run one batch; None says that it did not fit into memory and the budget was halved.

        Args:
            batch: The pairs.
            run: Does it.
            first: Whether these pairs are run for the first time; later stages count as passes only.

        Raises:
            DeviceError: The batch was a single pair.
        """
        start = time.perf_counter()
        try:
            result = run()
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            self._back_off(batch, error)
            return None
        lengths = [len(pair) for pair in batch] if first else []
        self._count(
            scored_pairs=len(lengths),
            tokens=sum(lengths),
            computed_tokens=computed_tokens(lengths, self._family.layout),
            forward_passes=1,
            truncated_pairs=sum(pair.truncated_tokens > 0 for pair in batch) if first else 0,
            seconds=time.perf_counter() - start,
        )
        return result

    def _check(self, task: Task) -> None:
        """Refuse what this model cannot do, before anything is encoded."""
        if task.layers:
            self._layered().check_layers(task.layers)

    def _layered(self) -> LayeredFamily:
        family = self._family
        if not isinstance(family, LayeredFamily):
            msg = f"A model of the {family.name} family has one score for a pair, and no layers to choose from."
            raise ConfigError(msg)
        return family

    def _forward(self, batch: Sequence[EncodedPair], layers: Sequence[int]) -> Floats:
        """Return logits of shape (rows, pairs): a row for each layer that is asked for, else one."""
        if layers:
            return np.transpose(self._layered().forward_layers(batch, layers))
        return np.expand_dims(self._family.forward(batch), 0)

    def _prune(
        self, encoded: Sequence[EncodedPair], rankings: Sequence[Ranking], wanted: Callable[[int], bool]
    ) -> Iterator[ScoredBatch]:
        """Run rankings that prune themselves."""
        family = self._layered()
        run = PrunedRun(family, self, encoded, steps=self._progressive, wanted=wanted)
        for batch in run.batches(rankings):
            if batch.layer != family.layers[-1]:
                self._count(pruned_pairs=len(batch.indices))
            yield batch

    def _back_off(self, batch: Sequence[EncodedPair], error: RuntimeError) -> None:
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


def _spread(owners: list[list[int]], batch: list[EncodedPair], logits: Floats, count: int) -> ScoredBatch:
    """Give the scores of each distinct pair to every place that asked for it, of `count` places a row."""
    result = ScoredBatch([], [], [])
    for row, scores in enumerate(logits.tolist()):
        for indices, pair, logit in zip(owners, batch, scores, strict=True):
            result.indices.extend(row * count + index for index in indices)
            result.logits.extend([logit] * len(indices))
            result.truncated_tokens.extend([pair.truncated_tokens] * len(indices))
    return result


def _rankings(owners: Sequence[Sequence[int]], counts: Sequence[int]) -> list[Ranking]:
    """Cut the places of an answer, of whose pairs the owners are given, into rankings of these sizes."""
    numbers = {index: number for number, indices in enumerate(owners) for index in indices}
    ends = list(accumulate(counts))
    return [
        Ranking.of([numbers[index] for index in range(end - count, end)], end - count)
        for count, end in zip(counts, ends, strict=True)
    ]


def _always(_place: int) -> bool:
    return True


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Tell running out of memory from every other RuntimeError."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    # torch raises a plain RuntimeError where the host's allocator fails.
    return "DefaultCPUAllocator: not enough memory" in str(error) or "can't allocate memory" in str(error)
