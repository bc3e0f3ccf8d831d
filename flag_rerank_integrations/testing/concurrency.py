"""Tests that callers who ask at the same time get their own answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from flag_rerank_integrations.testing.conformance import Conformance, Item, RerankerType

__all__ = ["ConcurrencyTests"]

_ROUNDS = 3
_PATIENCE = 60.0


class ConcurrencyTests(Conformance[RerankerType, Item]):
    """Web servers, agents and LangChain's own `batch` call one reranker from many threads and tasks."""

    def test_threads_get_their_own_answers(self) -> None:
        """Each thread gets what it would have got alone."""
        reranker, requests = self.make(), self._requests()
        expected = [self.ranked(reranker, texts, query) for query, texts in requests]
        start = Barrier(len(requests))

        def ask(request: tuple[str, Sequence[str]]) -> list[list[Item]]:
            query, texts = request
            start.wait(_PATIENCE)
            return [self.ranked(reranker, texts, query) for _ in range(_ROUNDS)]

        with ThreadPoolExecutor(len(requests)) as pool:
            answers = list(pool.map(ask, requests))
        self._check_answers(answers, expected)

    def test_tasks_get_their_own_answers(self) -> None:
        """Each asyncio task gets what it would have got alone."""
        reranker, requests = self.make(), self._requests()
        expected = [self.ranked(reranker, texts, query) for query, texts in requests]

        async def ask(query: str, texts: Sequence[str]) -> list[list[Item]]:
            return [list(await self.acall(reranker, self.items(texts), query)) for _ in range(_ROUNDS)]

        async def ask_all() -> list[list[list[Item]]]:
            return await asyncio.gather(*(ask(query, texts) for query, texts in requests))

        self._check_answers(asyncio.run(ask_all()), expected)

    def _requests(self) -> list[tuple[str, Sequence[str]]]:
        """Return one request a caller: no two have the same query and passages."""
        return [
            (self.texts[caller % len(self.texts)], [f"{text} {caller}" for text in self.texts[caller % 3 :]])
            for caller in range(self.callers)
        ]

    def _check_answers(self, answers: Sequence[Sequence[Sequence[Item]]], expected: Sequence[Sequence[Item]]) -> None:
        for rounds, alone in zip(answers, expected, strict=True):
            for answer in rounds:
                self.assert_same(answer, alone)
