"""Cutting requests into shards that workers take one by one, and the queue of them: no processes here."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import ceil, inf
from typing import Final, TypeVar

from flag_rerank_integrations.errors import RerankError, WorkerError
from flag_rerank_integrations.executors.request import Request, closed_error
from flag_rerank_integrations.pairs import Pair, ScoredPairs

__all__ = ["Shard", "ShardQueue", "cost_of", "cut", "parts_of", "shard_sizes"]

# Costs are counted in characters, of which an English word has about five.
# A request up to this cost is not worth two messages: it is about one batch on a CPU.
_ONE_PIECE: Final = 8_000
# Larger ones are cut as "factoring" cuts a loop (Hummel, Schonberg and Flynn, 1992): rounds of one
# equal shard for each worker, together a half of what is left, so that the last ones are small
# and even out what was estimated wrong; see docs/decisions/shard-sizes.md.
_LEAST: Final = 4_000
_MOST: Final = 32_000
_SHARE_OF_REST: Final = 2
# A pair costs its own length and a little for being there.
_COST_OF_A_PAIR: Final = 16
_Value = TypeVar("_Value")


@dataclass(eq=False, slots=True)
class Shard:
    """Pairs of one request that one worker scores together: distinct ones, or whole rankings."""

    request: Request
    pairs: list[Pair]
    indices: list[list[int]]
    """For each pair, where in the request its score belongs: equal pairs are scored once."""
    cost: int
    """Estimated work, in characters."""
    failures: int = 0
    """How many workers were lost over it."""
    counts: list[int] = field(default_factory=list)
    """How many of the pairs form each ranking, where rankings prune themselves."""

    def deliver(self, answer: ScoredPairs) -> None:
        """Give the request its scores, all or none.

        Raises:
            ValueError: There are not as many as pairs.
        """
        layers = answer.layers or [0] * len(answer.logits)
        tokens = answer.tokens or [0] * len(answer.logits)
        if len(answer.logits) != self.request.task.places(len(self.pairs)):
            msg = f"{len(answer.logits)} scores for {len(self.pairs)} pairs."
            raise ValueError(msg)
        count = 0
        scores = list(zip(answer.logits, answer.truncated_tokens, layers, tokens, strict=True))
        for place, scored in enumerate(scores):
            row, column = divmod(place, len(self.pairs))
            for index in self.indices[column]:
                self.request.put(row * len(self.request.pairs) + index, *scored)
                count += 1
        self.request.report(count)


def cost_of(pair: Pair, most_characters: int) -> int:
    """Return the estimated work of a pair: its characters, as far as they can be read.

    Outside ASCII a character counts as its bytes in UTF-8: a Chinese one is about one token, and
    so are four or five English letters.
    """
    length = sum(
        len(text) if text.isascii() else len(text[:most_characters].encode("utf-8", "replace")) for text in pair
    )
    return min(length, most_characters) + _COST_OF_A_PAIR


def cut(request: Request, workers: int, most_characters: int) -> list[Shard]:
    """Cut a request into shards, longest pairs first.

    A request that is worth one batch stays in one piece: it must not pay for the pool. A ranking that
    prunes itself stays in one piece, whatever it costs: who goes on is decided among all its passages.

    Args:
        request: What to cut.
        workers: How many workers there are.
        most_characters: Characters of a pair beyond which more cost nothing more.
    """
    pieces = list(_rankings(request) if request.task.counts else _distinct(request))
    costs = [sum(cost_of(pair, most_characters) for pair in pairs) for pairs, _ in pieces]
    ends = accumulate(shard_sizes(sum(costs), workers))
    end, spent = 0.0, 0.0
    shards: list[Shard] = []
    for number in sorted(range(len(pieces)), key=lambda number: -costs[number]):
        while spent + costs[number] / 2 > end:  # most of the piece lies beyond the end of the shard
            end = next(ends, inf)
            shards.append(Shard(request, [], [], 0))
        pairs, indices = pieces[number]
        shards[-1].pairs.extend(pairs)
        shards[-1].indices.extend(indices)
        shards[-1].cost += costs[number]
        spent += costs[number]
        if request.task.counts:
            shards[-1].counts.append(len(pairs))
    return [shard for shard in shards if shard.pairs]


_Piece = tuple[Sequence[Pair], list[list[int]]]
"""Pairs that stay together, and for each where in the request its score belongs."""


def _distinct(request: Request) -> Iterator[_Piece]:
    """Cut a request into its distinct pairs."""
    owners: dict[Pair, list[int]] = {}
    for index, pair in enumerate(request.pairs):
        owners.setdefault(pair, []).append(index)
    for pair, indices in owners.items():
        yield [pair], [indices]


def _rankings(request: Request) -> Iterator[_Piece]:
    """Cut a request into its rankings."""
    for count, end in zip(request.task.counts, accumulate(request.task.counts), strict=True):
        yield request.pairs[end - count : end], [[index] for index in range(end - count, end)]


def parts_of(answer: ScoredPairs, counts: Sequence[int]) -> Iterator[ScoredPairs]:
    """Cut an answer, of one or several rows of scores, into the answers for so many pairs each."""
    total = sum(counts)
    starts = range(0, len(answer.logits), total)

    def part(values: Sequence[_Value], first: int, count: int) -> list[_Value]:
        return [value for start in starts for value in values[start + first : start + first + count]]

    for count, end in zip(counts, accumulate(counts), strict=True):
        layers = None if answer.layers is None else part(answer.layers, end - count, count)
        yield ScoredPairs(
            part(answer.logits, end - count, count),
            part(answer.truncated_tokens, end - count, count),
            layers,
            part(answer.tokens, end - count, count) if answer.tokens else (),
        )


def shard_sizes(total: float, workers: int) -> list[float]:
    """Return how large the shards of a request should be, largest first.

    Args:
        total: The estimated work of the request.
        workers: How many workers there are.
    """
    if total <= _ONE_PIECE:
        return [total]
    sizes: list[float] = []
    while (size := min(_MOST, total / (_SHARE_OF_REST * workers))) > _LEAST:
        sizes += [size] * workers
        total -= size * workers
    count = ceil(total / _LEAST)
    if count > workers:  # whole rounds, so that nobody is left with one more than others
        count = ceil(count / workers) * workers
    return sizes + [total / count] * count


class ShardQueue:
    """Shards that wait for a worker. Requests take turns, so a short one never waits for a long one."""

    def __init__(self) -> None:
        self._waiting: deque[deque[Shard]] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, shards: Sequence[Shard]) -> None:
        """Add the shards of one request.

        Raises:
            WorkerError: The queue is closed.
        """
        with self._changed:
            if self._closed:
                msg = "This Reranker is closed."
                raise WorkerError(msg)
            self._waiting.append(deque(shards))
            self._changed.notify(len(shards))

    def put_back(self, shards: Sequence[Shard]) -> None:
        """Let shards whose worker was lost go next."""
        with self._changed:
            if self._closed:
                for shard in shards:
                    shard.request.fail(closed_error())
                return
            self._waiting.extendleft(deque([shard]) for shard in reversed(shards))
            self._changed.notify(len(shards))

    def take(self, is_lost: Callable[[], bool]) -> list[Shard] | None:
        """Wait for a shard, and take small ones along that wait behind it.

        Args:
            is_lost: Whether the caller's own worker has ended meanwhile; asked at every change.

        Returns:
            Shards; none where the worker is lost and nothing waits; None when closed.
        """
        with self._changed:
            while not self._closed:
                shards = self._next()
                if shards or is_lost():
                    return shards
                self._changed.wait()
            return None

    def wake(self) -> None:
        """Have every waiting caller ask again whether its worker is lost."""
        with self._changed:
            self._changed.notify_all()

    def _next(self) -> list[Shard]:
        taken: list[Shard] = []
        cost = 0
        while self._waiting:
            shard = self._waiting[0][0]
            # One that has cost a worker is tried alone, so that it cannot drag others along; and
            # a request was not cut to be put together again.
            if taken and (
                cost + shard.cost > _ONE_PIECE
                or shard.failures
                or taken[0].failures
                or shard.request in (other.request for other in taken)
            ):
                break
            if taken and shard.request.task.kind != taken[0].request.task.kind:
                break
            request = self._waiting.popleft()
            request.popleft()
            if request:
                self._waiting.append(request)
            if not shard.request.abandoned:
                shard.request.begin()
                taken.append(shard)
                cost += shard.cost
        return taken

    def close(self, error: RerankError) -> None:
        """Wake every waiter, and fail what waits."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        for shards in waiting:
            for shard in shards:
                shard.request.fail(error)
