"""Rankings that prune themselves: a part of a query's passages leaves after a few layers, the better ones go on.

Pairs do not see each other, so whoever goes on scores what it would have scored in a full run.
Between two stages the hidden states of a wave of rankings are kept, up to a bound; pairs
beyond it, and all of them once memory has run out, begin anew from their tokens.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from flag_rerank_integrations.batching import plan
from flag_rerank_integrations.errors import DeviceError
from flag_rerank_integrations.families.base import Floats, LayeredFamily, State
from flag_rerank_integrations.pairs import EncodedPair, ScoredBatch

__all__ = ["PrunedRun", "Ranking", "Runner", "survivors"]

_HELD_BYTES: Final = 1 << 30
_T = TypeVar("_T")


class Runner(Protocol):
    """Who runs batches: counts them, and notices when memory does not suffice."""

    @property
    def budget(self) -> int:
        """The most tokens in one batch, now."""
        ...

    def attempt(self, batch: Sequence[EncodedPair], run: Callable[[], _T], *, first: bool) -> _T | None:
        """Run a batch; None says that it did not fit into memory and the budget was halved.

        Args:
            batch: The pairs.
            run: Does it.
            first: Whether these pairs are run for the first time.
        """
        ...


@dataclass(slots=True)
class Ranking:
    """The passages of one query."""

    places: dict[int, list[int]]
    """For each distinct pair, by number: where in the answer its score belongs."""
    alive: list[int]
    """The pairs that have not left, in the order in which they first occur."""

    @classmethod
    def of(cls, items: Sequence[int], first: int) -> Ranking:
        """Make one of the pairs' numbers; the first of them has the place `first` in the answer."""
        places: dict[int, list[int]] = {}
        for place, item in enumerate(items, first):
            places.setdefault(item, []).append(place)
        return cls(places, list(places))

    def prune(self, scores: dict[int, float], fraction: float | None) -> list[int]:
        """Let the best pairs go on, none where the fraction is None; return those that leave."""
        kept: set[int] = set()
        if fraction is not None:
            best = survivors([scores[item] for item in self.alive], fraction, len(self.places))
            kept = {self.alive[i] for i in best}
        leaving = [item for item in self.alive if item not in kept]
        self.alive = [item for item in self.alive if item in kept]
        return leaving


def survivors(scores: Sequence[float], fraction: float, count: int) -> list[int]:
    """Return the indices of the best scores, those that come first among equals.

    Args:
        scores: Of those that are left.
        fraction: How many may stay, as a part of `count`, rounded up.
        count: How many there were at first.
    """
    # 0.07 * 100 is a little more than 7 in binary: that must not become 8.
    keep = math.ceil(round(fraction * count, 9))
    order = sorted(range(len(scores)), key=lambda i: math.inf if math.isnan(scores[i]) else -scores[i])
    return order[: max(1, keep)]


class PrunedRun:
    """One call's rankings on their way through the layers.

    Args:
        family: The model.
        runner: Runs its batches.
        encoded: The distinct pairs of the call.
        steps: (layer, fraction that goes on), layers rising.
        wanted: Asked for a place of the answer whether anybody waits for it still.
    """

    def __init__(
        self,
        family: LayeredFamily,
        runner: Runner,
        encoded: Sequence[EncodedPair],
        *,
        steps: Sequence[tuple[int, float]],
        wanted: Callable[[int], bool],
    ) -> None:
        self._family, self._runner, self._encoded, self._wanted = family, runner, encoded, wanted
        self._stages: list[tuple[int, float | None]] = [*steps, (family.layers[-1], None)]
        self._held = _HeldStates(family)

    def batches(self, rankings: Sequence[Ranking]) -> Iterator[ScoredBatch]:
        """Run all rankings, as many at a time as can be held; yield after each forward pass and stage."""
        wave: list[Ranking] = []
        tokens = 0
        for ranking in rankings:
            more = sum(len(self._encoded[item]) for item in ranking.places)
            if wave and tokens + more > self._held.most_tokens:
                yield from self._run(wave)
                wave, tokens = [], 0
            wave.append(ranking)
            tokens += more
        yield from self._run(wave)

    def _run(self, wave: Sequence[Ranking]) -> Iterator[ScoredBatch]:
        """Take some rankings through all stages."""
        start = 0
        for stop, fraction in self._stages:
            scores: dict[int, float] = {}
            for batch, logits in self._stage(wave, start, stop, keep=fraction is not None):
                scores.update(zip(batch, logits.tolist(), strict=True))
                yield ScoredBatch([], [], [])
            for ranking in wave:
                if self._is_wanted(ranking):
                    yield self._left(ranking, ranking.prune(scores, fraction), scores, stop)
            self._held.settle(self._needed(wave))
            start = stop

    def _stage(
        self, wave: Sequence[Ranking], start: int, stop: int, *, keep: bool
    ) -> Iterator[tuple[list[int], Floats]]:
        """Run the pairs that are left from one layer to the next that is read, batch by batch."""
        todo = self._plan(list(self._needed(wave)))
        while todo:
            needed = self._needed(wave)
            batch = [item for item in todo.popleft() if item in needed]
            if not batch:
                continue
            result = self._attempt(batch, start, stop)
            if result is None:
                todo = self._plan([*batch, *(item for later in todo for item in later)])
                continue
            logits, states = result
            if keep:
                self._held.put(batch, states)
            yield batch, logits

    def _plan(self, items: Sequence[int]) -> deque[list[int]]:
        """Batch pairs under the budget in force; those that go on and those that begin anew apart."""
        batches: deque[list[int]] = deque()
        for group in self._held.apart(items):
            lengths = [self._held.length(item, len(self._encoded[item])) for item in group]
            batches.extend([group[i] for i in batch] for batch in plan(lengths, self._runner.budget, "packed"))
        return batches

    def _attempt(self, batch: Sequence[int], start: int, stop: int) -> tuple[Floats, list[State]] | None:
        """Run one batch; where memory does not suffice, give up what is held before giving up."""
        pairs = [self._encoded[item] for item in batch]
        states = self._held.take(batch)
        begin = 0 if states is None else start
        try:
            result = self._runner.attempt(
                pairs, lambda: self._family.advance(pairs, states, begin, stop), first=start == 0
            )
        except DeviceError:
            if not self._held.give_up() and states is None:
                raise
            return None
        if result is None:
            self._held.give_up()
        return result

    def _needed(self, wave: Sequence[Ranking]) -> dict[int, None]:
        """Return the pairs that have not left every ranking, in order, as a dictionary's keys."""
        return dict.fromkeys(item for ranking in wave if self._is_wanted(ranking) for item in ranking.alive)

    def _is_wanted(self, ranking: Ranking) -> bool:
        """Tell whether anybody waits for a ranking; its places all belong to one caller."""
        return self._wanted(next(iter(ranking.places.values()))[0])

    def _left(self, ranking: Ranking, items: Sequence[int], scores: dict[int, float], layer: int) -> ScoredBatch:
        """Give the pairs that leave a ranking the score they have here."""
        owners = [(place, item) for item in items for place in ranking.places[item]]
        return ScoredBatch(
            [place for place, _ in owners],
            [scores[item] for _, item in owners],
            [self._encoded[item].truncated_tokens for _, item in owners],
            layer,
            [self._encoded[item].tokens for _, item in owners],
        )


class _HeldStates:
    """The hidden states of pairs between two stages, up to a bound."""

    def __init__(self, family: LayeredFamily) -> None:
        self.most_tokens = _HELD_BYTES // family.state_bytes
        self._family = family
        self._states: dict[int, State] = {}
        self._coming: list[tuple[list[int], list[State]]] = []
        self._coming_tokens = 0

    def apart(self, items: Sequence[int]) -> tuple[list[int], list[int]]:
        """Split pairs into those that are held and those that are not."""
        return [i for i in items if i in self._states], [i for i in items if i not in self._states]

    def length(self, item: int, whole: int) -> int:
        """Return how many tokens a pair has now: compression may have shortened it."""
        return len(self._states[item]) if item in self._states else whole

    def take(self, items: Sequence[int]) -> list[State] | None:
        """Hand over the states of a batch, all of whose pairs are held, or none of them."""
        return [self._states.pop(item) for item in items] if items[0] in self._states else None

    def put(self, items: list[int], states: list[State]) -> None:
        """Take in the states of a batch for the next stage, unless that would be too much."""
        tokens = sum(map(len, states))
        if self._coming_tokens + tokens <= self.most_tokens:
            self._coming.append((items, states))
            self._coming_tokens += tokens

    def settle(self, needed: Container[int]) -> None:
        """Begin the next stage with the states of those that go on, and free the others'."""
        self._states = {}
        for items, states in self._coming:
            kept = [i for i, item in enumerate(items) if item in needed]
            if kept:
                # A batch's states are views of one tensor, which lives as long as any of them.
                compact = states if len(kept) == len(items) else self._family.compact([states[i] for i in kept])
                self._states.update(zip((items[i] for i in kept), compact, strict=True))
        self._coming, self._coming_tokens = [], 0

    def give_up(self) -> bool:
        """Hold nothing any more; tell whether anything was held, so that memory was freed."""
        held = bool(self._states or self._coming)
        self._states, self._coming, self.most_tokens = {}, [], 0
        return held
