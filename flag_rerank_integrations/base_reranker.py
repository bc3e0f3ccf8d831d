"""What all rerankers share: check what is given, hand it to an executor, put the answer in order."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import Future

from flag_rerank_integrations.errors import WorkerError
from flag_rerank_integrations.inputs import checked_cut, checked_pairs, checked_requests
from flag_rerank_integrations.lifetime import Lifetime, Options
from flag_rerank_integrations.monitoring.calls import Call
from flag_rerank_integrations.pairs import SCORE, Pair, ScoredPairs, Task
from flag_rerank_integrations.progress import ProgressBar, shared_bar
from flag_rerank_integrations.ranking import rankings_of
from flag_rerank_integrations.results import RankedPassage
from flag_rerank_integrations.waiting import wait_async, wait_for

__all__ = ["BaseReranker"]


class BaseReranker(Lifetime[Options]):
    """Scores and ranks passages against queries through an executor, which a subclass starts.

    One instance may be used from many threads and event loops at once. Pickling and copying
    carry the options only; the copy starts when it is first used.
    """

    def score(self, pairs: Iterable[Pair]) -> list[float]:
        """Score pairs of query and passage.

        Args:
            pairs: (query, passage) pairs.

        Returns:
            One float a pair, in order. It is the logit, or its sigmoid (0 to 1) with `normalize=True`.

        Raises:
            InputError: Something is not a pair of strings, or a text is too long and
                `long_passages="error"`.
            WorkerError: Scoring failed; `WorkerTimeout` where it took over `timeout` seconds.
        """
        with self._call("score") as call:
            return self._scores(self._wait(call, checked_pairs(pairs)))

    async def ascore(self, pairs: Iterable[Pair]) -> list[float]:
        """Score pairs without blocking the event loop; see `score`."""
        with self._call("score") as call:
            return self._scores(await self._await(call, checked_pairs(pairs)))

    def rank(
        self,
        query: str,
        passages: Iterable[str],
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> list[RankedPassage]:
        """Rank the passages of one query, best first; equal scores keep their order.

        Args:
            query: The query.
            passages: The passages.
            top_n: How many to return at most; None is all.
            score_threshold: Passages with a lower score are left out, before `top_n` applies; in the
                scores' own unit: logits, or 0 to 1 with `normalize=True`.

        Returns:
            The passages by their positions in the list given, from 0; at most `top_n` of them.

        Raises:
            InputError: A text is not a string, or too long with `long_passages="error"`.
            ConfigError: `top_n` or `score_threshold` is wrong.
            WorkerError: As in `score`.
        """
        return self.rank_many([(query, passages)], top_n, score_threshold)[0]

    async def arank(
        self,
        query: str,
        passages: Iterable[str],
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> list[RankedPassage]:
        """Rank the passages of one query without blocking the event loop; see `rank`."""
        return (await self.arank_many([(query, passages)], top_n, score_threshold))[0]

    def rank_many(
        self,
        requests: Iterable[tuple[str, Iterable[str]]],
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> list[list[RankedPassage]]:
        """Rank the passages of several queries in one go, with shared batches.

        Args:
            requests: (query, passages) of each ranking.
            top_n: How many to return of each at most; None is all.
            score_threshold: Passages with a lower score are left out, before `top_n` applies.

        Returns:
            One ranking for each request, in order; see `rank`.

        Raises:
            RerankError: As in `rank`.
        """
        with self._call("rank", top_n) as call:
            top_n, score_threshold = checked_cut(top_n, score_threshold)
            counts, pairs = checked_requests(requests)
            if top_n == 0:
                return [[] for _ in counts]
            scored = self._wait(call, pairs, self._ranking_task(counts))
            return rankings_of(self._scores(scored), scored, counts, top_n, score_threshold)

    async def arank_many(
        self,
        requests: Iterable[tuple[str, Iterable[str]]],
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> list[list[RankedPassage]]:
        """Rank the passages of several queries without blocking the event loop; see `rank_many`."""
        with self._call("rank", top_n) as call:
            top_n, score_threshold = checked_cut(top_n, score_threshold)
            counts, pairs = checked_requests(requests)
            if top_n == 0:
                return [[] for _ in counts]
            scored = await self._await(call, pairs, self._ranking_task(counts))
            return rankings_of(self._scores(scored), scored, counts, top_n, score_threshold)

    @abstractmethod
    def _scores(self, scored: ScoredPairs) -> list[float]:
        """Bring an executor's answer into the form that was asked for."""

    def _call(self, method: str, top_n: int | None = None) -> Call:
        return Call(self._calls, method, top_n, self._devices)

    def _ranking_task(self, _counts: Sequence[int]) -> Task:
        """Return what to ask for rankings of so many passages each."""
        return SCORE

    def _submit(self, pairs: Sequence[Pair], task: Task) -> Future[ScoredPairs]:
        executor = self._started()
        shared = shared_bar()
        if shared is not None:
            return executor.submit(pairs, shared.update, task)
        if not self._config.progress:
            return executor.submit(pairs, task=task)
        bar = ProgressBar(task.places(len(pairs)))
        try:
            future = executor.submit(pairs, bar.update, task)
        except WorkerError:
            bar.close()
            raise
        future.add_done_callback(bar.close)
        return future

    def _wait(self, call: Call, pairs: Sequence[Pair], task: Task = SCORE) -> ScoredPairs:
        call.ask(pairs)
        if not pairs:
            return ScoredPairs([], [])
        return call.answer(wait_for(self._submit(pairs, task), self._config.timeout, len(pairs)))

    async def _await(self, call: Call, pairs: Sequence[Pair], task: Task = SCORE) -> ScoredPairs:
        call.ask(pairs)
        if not pairs:
            return ScoredPairs([], [])
        if self._executor is None:
            await asyncio.to_thread(self.start)
        return call.answer(await wait_async(self._submit(pairs, task), self._config.timeout, len(pairs)))
