"""Tests of the order, the scores, and how many come back."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest

from flag_rerank_integrations.testing.conformance import MANY, Conformance, Item, RerankerType

__all__ = ["RankingTests"]


class RankingTests(Conformance[RerankerType, Item]):
    """A ranking is best first, complete up to its limit, and the same however it is asked for."""

    def test_best_comes_first(self) -> None:
        """Scores never rise from one item to the next."""
        found = self.ranked(self.make(), self.texts)
        scores = self.scores_of(found)
        slack = 0 if self.shows_scores else self.score_tolerance
        assert all(first >= second - slack for first, second in pairwise(scores)), scores

    def test_scores_are_the_models(self) -> None:
        """What is shown as a score is what the model gives that pair."""
        found = self.ranked(self.make(), self.texts)
        reference = self.reference_scores(self.query, [self.text_of(item) for item in found])
        if reference is None or not self.shows_scores:
            pytest.skip("no scores are shown, or there are no reference_scores")
        assert [self.score_of(item) for item in found] == pytest.approx(reference, abs=self.score_tolerance)

    def test_scores_are_plain_floats(self) -> None:
        """Scores are finite Python floats: numpy's and torch's numbers break JSON, msgpack and checkpoints."""
        self._needs_scores()
        for found in (self.ranked(self.make(), self.texts), self.aranked(self.make(), self.texts)):
            assert {type(self.score_of(item)) for item in found} == {float}
            assert all(math.isfinite(self.score_of(item)) for item in found)

    def test_outputs_are_json(self) -> None:
        """What comes out can be written by the json module, as web services and state stores do it."""
        for item in self.ranked(self.make(), self.texts):
            assert json.loads(self.json_of(item))

    def test_ties_keep_their_order(self) -> None:
        """Items with equal scores stay in the order they came in."""
        found = self.ranked(self.make(), self.texts[:2] * 4)
        places = zip(self.scores_of(found), self.marks(found), strict=True)
        for (score, mark), (next_score, next_mark) in pairwise(places):
            assert score != next_score or mark < next_mark, "equal scores in another order"

    def test_nothing_gives_nothing(self) -> None:
        """An empty list gives an empty list, and no error."""
        reranker = self.make()
        assert self.ranked(reranker, []) == []
        assert self.aranked(reranker, []) == []

    def test_one_item(self) -> None:
        """A list of one gives that one."""
        for found in self.both_ways(self.make(), self.items(self.texts[:1])):
            assert [self.text_of(item) for item in found] == self.texts[:1]

    def test_top_n_returns_the_best(self) -> None:
        """A limit cuts the full ranking, and changes nothing else."""
        complete = self.ranked(self.make(), self.texts)
        for limit in (1, 3):
            for found in self.both_ways(self.limited(limit), self.items(self.texts)):
                self.assert_same(found, complete[:limit])

    def test_top_n_larger_than_the_list(self) -> None:
        """A limit above the number of items gives them all."""
        for limit in (len(self.texts) + 1, MANY):
            assert len(self.ranked(self.limited(limit), self.texts)) == len(self.texts)

    def test_top_n_zero(self) -> None:
        """A limit of zero gives nothing, or is refused when the reranker is made."""
        try:
            reranker = self.limited(0)
        except self.refusals:
            return
        assert self.ranked(reranker, self.texts) == []

    def test_top_n_none_is_all(self) -> None:
        """A limit of None is no limit."""
        if not self.supports_unlimited:
            pytest.skip("supports_unlimited is False")
        for found in self.both_ways(self.limited(None), self.items(self.texts)):
            self.assert_same(found, self.ranked(self.make(), self.texts))

    def test_threshold_keeps_the_best(self) -> None:
        """A threshold keeps what reaches it, in the order it had; a limit then cuts the rest."""
        name = self.score_threshold_param
        if name is None:
            pytest.skip("score_threshold_param is None")
        self._needs_scores()
        complete = self.ranked(self.make(), self.texts)
        middle = len(complete) // 2
        # Between two scores: rounding must not decide what is kept.
        threshold = float(self.score_of(complete[middle - 1]) + self.score_of(complete[middle])) / 2
        for found in self.both_ways(self.make(**{name: threshold}), self.items(self.texts)):
            self.assert_same(found, complete[:middle])
        if self.top_n_param is not None:
            self.assert_same(self.ranked(self.limited(1, **{name: threshold}), self.texts), complete[:1])

    def test_async_equals_sync(self) -> None:
        """The async method gives the same items and scores in the same order."""
        reranker = self.make()
        self.assert_same(self.aranked(reranker, self.texts), self.ranked(reranker, self.texts))

    def test_async_is_best_first(self) -> None:
        """The async method orders by score as well."""
        found = self.aranked(self.make(), self.texts)
        scores = self.scores_of(found)
        slack = 0 if self.shows_scores else self.score_tolerance
        assert all(first >= second - slack for first, second in pairwise(scores)), scores

    def test_calls_do_not_depend_on_earlier_ones(self) -> None:
        """Another question about the same passages, and the first one again, are answered as by a new reranker."""
        reranker = self.make()
        first = self.ranked(reranker, self.texts)
        second = self.ranked(reranker, self.texts, self.texts[2])
        self.assert_same(second, self.ranked(self.make(), self.texts, self.texts[2]))
        self.assert_same(self.ranked(reranker, self.texts), first)

    def _needs_scores(self) -> None:
        if not self.shows_scores:
            pytest.skip("no scores are shown")
