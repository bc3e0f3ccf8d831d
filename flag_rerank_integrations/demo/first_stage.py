"""The first stage: BM25 over the whole corpus, by bm25s."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from flag_rerank_integrations.demo.corpus import Entry

__all__ = ["FirstStage", "Hit"]

# Words of two letters or more, with names such as "get_close_matches" split at their underscores.
_WORD: Final = r"[^\W_]{2,}"


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
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs every step, at level DEBUG
        self._entries = list(entries)
        self._index = bm25s.BM25()
        self._index.index(_words([entry.text for entry in entries]), show_progress=False)

    def search(self, query: str, top_k: int) -> list[Hit]:
        """Return the passages that score best, best first; at most `top_k`, and none that shares no word."""
        found, scores = self._index.retrieve(
            _words([query]), k=min(top_k, len(self._entries)), show_progress=False, backend_selection="numpy"
        )
        hits = zip(found[0].tolist(), scores[0].tolist(), strict=True)
        return [Hit(self._entries[index], score) for index, score in hits if score > 0]


def _words(texts: list[str]) -> Any:  # noqa: ANN401 - bm25s ships no type information
    import bm25s

    return bm25s.tokenize(texts, token_pattern=_WORD, stopwords="en", return_ids=False, show_progress=False)
