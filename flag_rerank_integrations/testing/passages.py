"""Tests of the passages and queries that real collections hold: equal, blank, in any script, broken, long, many."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from flag_rerank_integrations.testing.conformance import Conformance, Item, RerankerType

__all__ = ["PassageTests"]

_BLANK = ("", " ", "\n\t\u3000")
_SCRIPTS = (
    "柏林有三百五十二万居民。",
    "يبلغ عدد سكان برلين ثلاثة ملايين ونصف المليون نسمة.",
    "Население города превышает три миллиона.",
    "बर्लिन की जनसंख्या पैंतीस लाख है।",
    "Cafe\u0301 and Caf\u00e9 are one word in two spellings.",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \U0001f43c",
    "zero\u200bwidth, a null \x00 and a \u202eturned\u202c word",
)


class PassageTests(Conformance[RerankerType, Item]):
    """Input of any kind is answered in full or refused by a clear error (`refusals`), never a failure further down."""

    def test_duplicate_passages_are_all_kept(self) -> None:
        """Equal passages all come back, each as itself."""
        texts = [*self.texts, *self.texts[:3], self.texts[0]]
        for found in self.both_ways(self.make(), self.items(texts)):
            assert sorted(self.marks(found)) == list(range(len(texts)))
            assert sorted(map(self.text_of, found)) == sorted(texts)

    def test_duplicate_passages_score_the_same(self) -> None:
        """A passage's score does not depend on where in the list it stands."""
        texts = [self.texts[0], *self.texts[1:], self.texts[0]]
        found = self.ranked(self.make(), texts)
        scores = dict(zip(self.marks(found), self.scores_of(found), strict=True))
        assert scores[0] == pytest.approx(scores[len(texts) - 1], abs=self.score_tolerance)

    def test_blank_passages(self) -> None:
        """Passages without a character to read do not take the others along."""
        self._answered_or_refused([self.texts[0], *_BLANK, *self.texts[1:]], self.query, optional=_BLANK)

    def test_only_blank_passages(self) -> None:
        """A list of nothing but blank passages is answered or refused."""
        self._answered_or_refused(_BLANK, self.query, optional=_BLANK)

    def test_blank_query(self) -> None:
        """A query without a character to read is answered or refused."""
        for query in _BLANK:
            self._answered_or_refused(self.texts, query)

    def test_every_script(self) -> None:
        """Texts of any script come back as they were, character for character."""
        for query in (self.query, _SCRIPTS[0]):
            found = self.ranked(self.make(), _SCRIPTS, query)
            assert sorted(map(self.text_of, found)) == sorted(_SCRIPTS)

    def test_lone_surrogates(self) -> None:
        """Half a character, as text taken out of PDF files may hold, is answered or refused."""
        self._answered_or_refused([*self.texts, "half a \ud83d character"], self.query)

    def test_passages_longer_than_the_model_reads(self) -> None:
        """A passage of several thousand words is answered."""
        texts = [*self.texts, " ".join(self.texts) * 60]
        found = self.ranked(self.make(), texts)
        assert sorted(map(self.text_of, found)) == sorted(texts)

    def test_a_big_list(self) -> None:
        """Hundreds of passages come back, each once, in the order of their scores."""
        texts = [f"{self.texts[i % len(self.texts)]} {i}" for i in range(self.big_list_size)]
        found = self.ranked(self.make(), texts)
        assert sorted(map(self.text_of, found)) == sorted(texts)
        if self.shows_scores:
            scores = [self.score_of(item) for item in found]
            assert scores == sorted(scores, reverse=True)

    def _answered_or_refused(self, texts: Sequence[str], query: str, optional: Sequence[str] = ()) -> None:
        """Expect each text back once, but for those that may be left out; or a refusal, by both methods."""
        reranker = self.make()
        for ranked in (self.ranked, self.aranked):
            try:
                found = ranked(reranker, texts, query)
            except self.refusals as error:
                if isinstance(error, UnicodeError):  # a ValueError by birth, yet it says nothing of what to do
                    pytest.fail(f"the text reached a codec that cannot write it: {error}")
                continue
            marks = self.marks(found)
            assert len(set(marks)) == len(marks), "an item came back twice"
            needed = [text for text in texts if text not in optional]
            assert sorted(text for text in map(self.text_of, found) if text not in optional) == sorted(needed)
