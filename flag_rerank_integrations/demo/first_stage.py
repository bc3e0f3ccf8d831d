"""The first stage: BM25 over the whole corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flag_rerank_integrations.demo.corpus import Entry
from flag_rerank_integrations.evaluation.first_stage import Bm25

__all__ = ["FirstStage", "Hit"]


class Hit(NamedTuple):
    """One retrieved passage."""

    entry: Entry
    score: float


class FirstStage:
    """A BM25 index.

    Args:
        entries: The corpus.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = list(entries)
        self._index = Bm25([entry.text for entry in entries])

    def search(self, query: str, top_k: int) -> list[Hit]:
        """Return the passages that score best, best first; at most `top_k`, and none that shares no word."""
        (hits,) = self._index.search([query], top_k)
        return [Hit(self._entries[place], score) for place, score in hits]
