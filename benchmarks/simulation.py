"""More workers than this machine has cores for: the pool's own cutting and queue, with measured costs."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Final

from benchmarks.minilm import Texts, tokens_of
from flag_rerank_integrations import Reranker
from flag_rerank_integrations.executors.request import Request
from flag_rerank_integrations.executors.shards import ShardQueue, cut
from flag_rerank_integrations.pairs import Pair

__all__ = ["Costs", "makespan"]

_WORDS: Final = (16, 32, 64, 128, 256, 400)
_BATCH_TOKENS: Final = 2048
_CHARACTERS_PER_TOKEN: Final = 6


@dataclass(frozen=True, slots=True)
class Costs:
    """What scoring takes one single-threaded worker, by length."""

    tokens: tuple[int, ...]
    """Lengths that were measured."""
    seconds: tuple[float, ...]
    """Seconds for one pair of each, in a full batch of its like."""
    shard_seconds: float
    """Seconds that a message costs beside the scoring."""

    @classmethod
    def measure(cls, worker: Reranker, texts: Texts, shard_seconds: float, repeats: int) -> Costs:
        """Score full batches of equal lengths, in turns, and take the median of each length."""
        batches = {words: _BATCH_TOKENS // (words + 11) for words in _WORDS}
        taken: dict[int, list[float]] = {words: [] for words in _WORDS}
        for repeat in range(repeats + 1):
            for words, count in batches.items():
                pairs = texts.pairs([words] * count, seed=repeat)
                start = perf_counter()
                worker.score(pairs)
                if repeat:  # the first turn warms up
                    taken[words].append((perf_counter() - start) / count)
        tokens = tuple(tokens_of(texts.pairs([words], 0)[0]) for words in _WORDS)
        return cls(tokens, tuple(median(taken[words]) for words in _WORDS), shard_seconds)

    def of(self, pair: Pair) -> float:
        """Return the seconds of a pair, on the line between the two nearest lengths."""
        length = tokens_of(pair)
        above = min(max(bisect_left(self.tokens, length), 1), len(self.tokens) - 1)
        (low, high), (less, more) = self.tokens[above - 1 : above + 1], self.seconds[above - 1 : above + 1]
        return less + (more - less) * (length - low) / (high - low)


def makespan(pairs: Sequence[Pair], workers: int, costs: Costs, max_length: int) -> tuple[float, int]:
    """Play the pool's dispatchers in simulated time: whoever is free first takes from the queue.

    Returns:
        The time until the last worker is done, over the ideal: the cost of all pairs, without
        any cost for messages, divided evenly. And the number of messages.
    """
    queue = ShardQueue()
    queue.put(cut(Request(pairs), workers, max_length * _CHARACTERS_PER_TOKEN))
    free_at = [0.0] * workers
    messages = 0
    while shards := queue.take(lambda: True):
        seconds = costs.shard_seconds + sum(costs.of(pair) for shard in shards for pair in shard.pairs)
        heapq.heapreplace(free_at, free_at[0] + seconds)
        messages += 1
    return max(free_at) / (sum(map(costs.of, pairs)) / workers), messages
