"""Scores remembered from one call to the next."""

from __future__ import annotations

from typing import Any

import pytest

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import ConfigError

PAIRS = [("panda", f"the giant panda lives in China {'and eats bamboo ' * i}") for i in range(6)]


def test_what_was_asked_before_is_not_scored_again(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu") as plain:
        expected = plain.score(PAIRS)
    with Reranker(tiny("bert"), device="cpu", score_cache=100) as reranker:
        first, again = reranker.score(PAIRS), reranker.score(PAIRS[::-1])
        stats = reranker.stats()
    assert first == pytest.approx(expected, abs=3e-6)
    assert again == first[::-1]
    assert (stats.pairs, stats.scored_pairs, stats.cached_pairs) == (12, 6, 6)


def test_only_the_new_ones_of_a_call_are_scored(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu", score_cache=100) as reranker:
        reranker.score(PAIRS[:3])
        passes = reranker.stats().forward_passes
        reranker.score(PAIRS[:3])
        assert reranker.stats().forward_passes == passes
        mixed = reranker.score(PAIRS)
        stats = reranker.stats()
    assert (stats.scored_pairs, stats.cached_pairs) == (6, 6)
    assert len(set(mixed)) == len(PAIRS)


def test_the_one_not_asked_for_longest_is_forgotten(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu", score_cache=2) as reranker:
        for index in (0, 1, 0, 2, 0, 1):
            reranker.score(PAIRS[index : index + 1])
        stats = reranker.stats()
    # 0 is asked for again twice and kept; 2 drives 1 out, which is scored anew.
    assert (stats.scored_pairs, stats.cached_pairs) == (4, 2)


def test_off_unless_asked_for(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu") as reranker:
        reranker.score(PAIRS)
        reranker.score(PAIRS)
        stats = reranker.stats()
    assert (stats.scored_pairs, stats.cached_pairs) == (12, 0)


def test_texts_that_differ_only_behind_what_is_read_share_a_score(tiny: Any) -> None:
    long = "panda bear city museum " * 40
    with Reranker(tiny("bert"), device="cpu", max_length=32, score_cache=10) as reranker:
        ranked = reranker.rank("panda", [long])
        again = reranker.rank("panda", [f"{long} and more"])
        stats = reranker.stats()
    assert stats.cached_pairs == 1
    assert again[0].score == ranked[0].score
    assert again[0].truncated_tokens > ranked[0].truncated_tokens > 0


def test_windows_are_remembered_as_one_passage(tiny: Any) -> None:
    long = "panda bear city museum " * 40
    with Reranker(tiny("bert"), device="cpu", max_length=32, long_passages="windows", score_cache=10) as reranker:
        first, again = reranker.score([("panda", long)]), reranker.score([("panda", long)])
        stats = reranker.stats()
    assert first == again
    assert stats.windows > 1
    assert (stats.scored_pairs, stats.cached_pairs) == (1, 1)


def test_a_ranking_that_prunes_itself_cannot_be_remembered() -> None:
    with pytest.raises(ConfigError, match="score_cache"):
        Reranker("quickstart", progressive=((8, 0.5),), score_cache=5)
