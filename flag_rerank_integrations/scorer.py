"""One model on one device: encode, plan, forward, logits in the caller's order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Final

from flag_rerank_integrations import families
from flag_rerank_integrations.batching import plan
from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.encoding_ahead import encoded_ahead
from flag_rerank_integrations.errors import ConfigError
from flag_rerank_integrations.families.base import Family, LayeredFamily
from flag_rerank_integrations.meter import Meter
from flag_rerank_integrations.pairs import SCORE, EncodedPair, Pair, ScoredBatch, ScoredPairs, Task
from flag_rerank_integrations.progressive import PrunedRun, Ranking
from flag_rerank_integrations.results import RerankStats
from flag_rerank_integrations.score_cache import ScoreCache
from flag_rerank_integrations.truncation import TruncationCheck
from flag_rerank_integrations.workload import Workload

__all__ = ["Scorer"]

# Token positions in one forward pass. On CPUs larger batches fall out of the caches; on
# accelerators smaller ones leave units idle. Where memory does not suffice it is halved.
_CPU_BUDGET: Final = 2048
_ACCELERATOR_BUDGET: Final = 16384
# An accelerator computes while the host prepares: so many batches are under way at once, and
# texts are tokenized in portions of so many pairs, one portion ahead.
_BATCHES_AHEAD: Final = 2
_PAIRS_AT_A_TIME: Final = 512
_NO_CACHE: Final = ScoreCache(0)

_Logits = Sequence[tuple[float, ...]]
_Running = tuple[Workload, list[int], Callable[[], _Logits]]


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
        self._config = config
        self._check_lengths = TruncationCheck(config)
        self._cache = ScoreCache(config.score_cache)
        self._ahead = 0 if device.kind == "cpu" else _BATCHES_AHEAD
        self._meter = Meter(
            device,
            RerankStats(
                max_batch_tokens=_budget(config, device, self._family),
                family=self._family.name,
                layout=self._family.layout,
                load_seconds=seconds,
            ),
        )

    @property
    def device(self) -> Device:
        """Where the model is."""
        return self._meter.device

    @property
    def stats(self) -> RerankStats:
        """The work done so far; an immutable snapshot, safe to read from any thread."""
        return self._meter.stats

    def score(self, pairs: Sequence[Pair], task: Task = SCORE) -> ScoredPairs:
        """Return the logits of pairs, in order; see `Task` for what else may be asked."""
        places = task.places(len(pairs))
        logits, cut, layers, tokens = [0.0] * places, [0] * places, [0] * places, [0] * places
        for batch in self.steps(pairs, task=task):
            scores = zip(batch.indices, batch.logits, batch.truncated_tokens, batch.tokens, strict=True)
            for index, logit, cut_off, read in scores:
                logits[index], cut[index], tokens[index] = logit, cut_off, read
                layers[index] = batch.layer or 0
        return ScoredPairs(logits, cut, layers if task.counts else None, tokens)

    def steps(
        self, pairs: Sequence[Pair], wanted: Callable[[int], bool] | None = None, task: Task = SCORE
    ) -> Iterator[ScoredBatch]:
        """Score pairs batch by batch, so that a scheduler can turn to others in between.

        Args:
            pairs: Equal ones are scored once.
            wanted: Asked before each batch for each pair's index; what nobody wants any more is left out.
            task: What is asked of them.

        Yields:
            One item per forward pass, and more where scores are remembered or pairs are dropped; every
            wanted place of the answer occurs exactly once overall.

        Raises:
            ConfigError: The model has no layers to read, or not those that are asked for.
            DeviceError: The device's memory does not suffice for a single pair.
            InputError: A passage is too long, with `long_passages="error"`.
        """
        if task.layers:
            self._layered().check_layers(task.layers)
        owners: dict[Pair, list[int]] = {}
        for index, pair in enumerate(pairs):
            owners.setdefault(pair, []).append(index)
        self._meter.count(pairs=len(pairs))
        if task.counts:
            encoded = self._meter.timed(partial(self._encode, list(owners)))
            yield from self._prune(encoded, _rankings(list(owners.values()), task.counts), wanted or _always)
        else:
            yield from self._score_all(owners, len(pairs), wanted or _always, task.layers)

    def close(self) -> None:
        """Free the model; safe to call twice."""
        self._family.close()

    def _score_all(
        self, owners: dict[Pair, list[int]], count: int, wanted: Callable[[int], bool], layers: Sequence[int]
    ) -> Iterator[ScoredBatch]:
        """Encode, run and read: on an accelerator the host encodes and launches while it computes."""
        running: deque[_Running] = deque()
        for work in self._workloads(owners, count, _NO_CACHE if layers else self._cache):
            if work.known:
                self._meter.count(cached_pairs=len(work.known))
                yield work.answer(work.known)
            todo = self._plan(work.windows, work.unknown)
            while todo:
                batch = work.wanted(todo.popleft(), wanted)
                if not batch:
                    continue
                read = self._launch([work.windows[i] for i in batch], layers)
                if read is None:
                    todo = self._plan(work.windows, [*batch, *(i for later in todo for i in later)])
                    continue
                running.append((work, batch, read))
                if len(running) > self._ahead:
                    yield self._finish(*running.popleft())
        while running:
            yield self._finish(*running.popleft())

    def _workloads(self, owners: dict[Pair, list[int]], count: int, cache: ScoreCache) -> Iterator[Workload]:
        """Encode distinct pairs: all at once, or in portions where something computes meanwhile."""
        pairs, places = list(owners), list(owners.values())
        portion = _PAIRS_AT_A_TIME if self._ahead else max(1, len(pairs))
        portions = [pairs[i : i + portion] for i in range(0, len(pairs), portion)]
        encodings = encoded_ahead(self._encode, portions) if self._ahead else map(self._encode, portions)
        first = 0
        for _ in portions:
            encoded = self._meter.timed(lambda: next(encodings))
            asked = places[first : first + portion]
            yield Workload(encoded, asked, count, self._config.window_aggregation, cache)
            first += portion

    def _encode(self, pairs: Sequence[Pair]) -> list[EncodedPair]:
        encoded = self._family.encode(pairs)
        self._check_lengths(pairs, encoded)
        return encoded

    def _launch(self, batch: list[EncodedPair], layers: Sequence[int]) -> Callable[[], _Logits] | None:
        """Begin one batch; what comes back waits for its logits. None: it did not fit into memory."""
        if layers:
            read_layers = partial(self._layered().forward_layers, batch, layers)
            found = self._meter.attempt(batch, read_layers, first=True)
            return None if found is None else lambda: [tuple(row) for row in found.tolist()]
        read = self._meter.attempt(batch, partial(self._family.launch, batch), first=True)
        return None if read is None else lambda: [(logit,) for logit in read().tolist()]

    def _finish(self, work: Workload, batch: list[int], read: Callable[[], _Logits]) -> ScoredBatch:
        """Wait for one batch, and answer those whose pairs are complete by it."""
        done = work.take(batch, self._meter.timed(read))
        self._meter.count_scored([work.pairs[i] for i in done])
        return work.answer(done)

    def _prune(
        self, encoded: Sequence[EncodedPair], rankings: Sequence[Ranking], wanted: Callable[[int], bool]
    ) -> Iterator[ScoredBatch]:
        """Run rankings that prune themselves."""
        family = self._layered()
        run = PrunedRun(family, self._meter, encoded, steps=self._config.progressive or (), wanted=wanted)
        self._meter.count_scored(encoded)
        for batch in run.batches(rankings):
            if batch.layer != family.layers[-1]:
                self._meter.count(pruned_pairs=len(batch.indices))
            yield batch

    def _layered(self) -> LayeredFamily:
        family = self._family
        if not isinstance(family, LayeredFamily):
            msg = f"A model of the {family.name} family has one score for a pair, and no layers to choose from."
            raise ConfigError(msg)
        return family

    def _plan(self, windows: Sequence[EncodedPair], indices: Sequence[int]) -> deque[list[int]]:
        """Batch the windows at these indices under the budget in force."""
        batches = plan([len(windows[i]) for i in indices], self._meter.budget, self._family.layout)
        return deque([indices[i] for i in batch] for batch in batches)


def _budget(config: RerankConfig, device: Device, family: Family) -> int:
    """Return the token budget: as asked for, else what suits the device and fits its free memory."""
    if isinstance(config.max_batch_tokens, int):
        return config.max_batch_tokens
    if device.kind == "cpu":
        return family.fitting_tokens() or _CPU_BUDGET
    return min(_ACCELERATOR_BUDGET, family.fitting_tokens() or _ACCELERATOR_BUDGET)


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
