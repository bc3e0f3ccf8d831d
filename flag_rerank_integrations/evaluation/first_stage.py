"""A first stage for those who have none: BM25 over the whole corpus, by bm25s."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any, Final

from flag_rerank_integrations.errors import InputError, MissingExtraError
from flag_rerank_integrations.evaluation.judged_set import JudgedSet
from flag_rerank_integrations.evaluation.runs import Run, ScoredPassage

__all__ = ["Bm25", "bm25_run"]

# Words of two letters or more, with names such as "get_close_matches" split at their underscores; and the
# characters of scripts that put no blanks between words, one by one.
_UNSPACED: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_WORD: Final = rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]{{2,}}"


class Bm25:
    """A BM25 index; English stop words are left out, and words are not stemmed.

    Args:
        passages: The texts, at least one of them with a word in it.
        progress: Whether to show progress bars on standard error.

    Raises:
        MissingExtraError: `bm25s` is not installed.
    """

    def __init__(self, passages: Sequence[str], *, progress: bool = False) -> None:
        try:
            import bm25s
        except ModuleNotFoundError as error:
            msg = "a first stage by BM25 needs bm25s: pip install 'flag-rerank-integrations[eval]'"
            raise MissingExtraError(msg, name="bm25s") from error

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs every step, at level DEBUG
        self._count = len(passages)
        self._index = bm25s.BM25()
        self._progress = progress
        words = _words(passages, progress=progress)
        self._index.index(words, show_progress=progress, leave_progress=False)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[tuple[int, float]]]:
        """Find the passages that score best for each query.

        Returns:
            For each query, best first, the places of passages in the list that was indexed with their
            scores: at most `top_k`, and none that shares no word with the query.
        """
        if not queries:
            return []
        found, scores = self._index.retrieve(
            _words(queries, progress=self._progress),
            k=min(top_k, self._count),
            show_progress=self._progress,
            leave_progress=False,
            backend_selection="numpy",
        )
        rows = zip(found.tolist(), scores.tolist(), strict=True)
        return [[(place, score) for place, score in zip(*row, strict=True) if score > 0] for row in rows]


def bm25_run(judged: JudgedSet, depth: int, *, progress: bool = False) -> Run:
    """Retrieve passages for every judged query of a set.

    Args:
        judged: With its whole corpus.
        depth: Passages of each query, at most.
        progress: Whether to show progress bars on standard error.

    Raises:
        InputError: No passage has a word in it.
        MissingExtraError: `bm25s` is not installed.
    """
    if not any(re.search(_WORD, text) for text in judged.corpus.values()):
        msg = f"{judged.name} has no passage with a word in it: BM25 has nothing to search"
        raise InputError(msg)
    names = list(judged.corpus)
    asked = judged.asked()
    index = Bm25(list(judged.corpus.values()), progress=progress)
    found = index.search([judged.queries[query] for query in asked], depth)
    return {
        query: [ScoredPassage(names[place], score) for place, score in hits]
        for query, hits in zip(asked, found, strict=True)
    }


def _words(texts: Sequence[str], *, progress: bool) -> Any:  # noqa: ANN401 - bm25s ships no type information
    import bm25s

    return bm25s.tokenize(
        list(texts), token_pattern=_WORD, stopwords="en", return_ids=False, show_progress=progress, leave=False
    )
