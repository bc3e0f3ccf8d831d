"""Cutting requests into shards that workers take one by one, and the queue of them: no processes here."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, inf
from typing import Final

from flag_rerank_integrations.errors import RerankError, WorkerError
from flag_rerank_integrations.executors.request import Request, closed_error
from flag_rerank_integrations.pairs import Pair

__all__ = ["Shard", "ShardQueue", "cost_of", "cut", "shard_sizes"]

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


@dataclass(eq=False, slots=True)
class Shard:
    """Distinct pairs of one request that one worker scores together."""

    request: Request
    pairs: list[Pair]
    indices: list[list[int]]
    """For each pair, where in the request its score belongs: equal pairs are scored once."""
    cost: int
    """Estimated work, in characters."""
    failures: int = 0
    """How many workers were lost over it."""

    def deliver(self, logits: Sequence[float], truncated_tokens: Sequence[int]) -> None:
        """Give the request its scores, all or none.

        Raises:
            ValueError: There are not as many as pairs.
        """
        count = 0
        for indices, logit, cut_tokens in list(zip(self.indices, logits, truncated_tokens, strict=True)):
            for index in indices:
                self.request.put(index, logit, cut_tokens)
            count += len(indices)
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

    A request that is worth one batch stays in one piece: it must not pay for the pool.

    Args:
        request: What to cut.
        workers: How many workers there are.
        most_characters: Characters of a pair beyond which more cost nothing more.
    """
    owners: dict[Pair, list[int]] = {}
    for index, pair in enumerate(request.pairs):
        owners.setdefault(pair, []).append(index)
    costs = {pair: cost_of(pair, most_characters) for pair in owners}
    ends = accumulate(shard_sizes(sum(costs.values()), workers))
    end, spent = 0.0, 0.0
    shards: list[Shard] = []
    for pair in sorted(owners, key=lambda pair: -costs[pair]):
        while spent + costs[pair] / 2 > end:  # most of the pair lies beyond the end of the shard
            end = next(ends, inf)
            shards.append(Shard(request, [], [], 0))
        shards[-1].pairs.append(pair)
        shards[-1].indices.append(owners[pair])
        shards[-1].cost += costs[pair]
        spent += costs[pair]
    return [shard for shard in shards if shard.pairs]


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
            request = self._waiting.popleft()
            request.popleft()
            if request:
                self._waiting.append(request)
            if not shard.request.abandoned:
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
