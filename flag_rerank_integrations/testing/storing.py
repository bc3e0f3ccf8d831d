"""Tests that a reranker can be copied and stored."""

from __future__ import annotations

import copy
import pickle

import pytest

from flag_rerank_integrations.testing.conformance import Conformance, Item, RerankerType

__all__ = ["StoringTests"]


class StoringTests(Conformance[RerankerType, Item]):
    """Chains are copied, pipelines are stored, and process pools pickle: what comes of it ranks as the original."""

    def test_a_deep_copy_ranks_the_same(self) -> None:
        """`copy.deepcopy` gives a reranker that works."""
        if not self.supports_deepcopy:
            pytest.skip("supports_deepcopy is False")
        reranker = self.make()
        self._check_copy(reranker, copy.deepcopy(reranker))

    def test_a_pickled_copy_ranks_the_same(self) -> None:
        """Pickling gives a reranker that works, before its first use and after it."""
        if not self.supports_pickle:
            pytest.skip("supports_pickle is False")
        reranker = self.make()
        before_use = pickle.dumps(reranker)
        self.ranked(reranker, self.texts)
        for stored in (before_use, pickle.dumps(reranker)):
            self._check_copy(reranker, pickle.loads(stored))  # noqa: S301 - made a line above

    def test_a_copy_through_json_ranks_the_same(self) -> None:
        """The framework's own JSON gives a reranker that works."""
        if not self.supports_json:
            pytest.skip("supports_json is False")
        reranker = self.make()
        self._check_copy(reranker, self.through_json(reranker))

    def _check_copy(self, reranker: RerankerType, copied: RerankerType) -> None:
        assert type(copied) is type(reranker)
        assert copied is not reranker
        self.made(copied)
        self.assert_same(self.ranked(copied, self.texts), self.ranked(reranker, self.texts))
