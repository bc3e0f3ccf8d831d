"""Rankings that prune themselves: who goes on, what they score, and that nothing else changes that."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from flag_rerank_integrations import RankedPassage, Reranker, progressive
from flag_rerank_integrations.errors import ConfigError, DeviceError, WorkerError
from flag_rerank_integrations.executors.request import Request
from flag_rerank_integrations.executors.shards import cut, parts_of
from flag_rerank_integrations.pairs import ScoredPairs, Task
from flag_rerank_integrations.progressive import Ranking, survivors

STEPS = ((3, 0.5), (5, 0.25))
LAST = 8
TOLERANCE = 3e-6
KINDS = ("layerwise", "lightweight")
COMPRESSED = {"layerwise": {}, "lightweight": {"compress_ratio": 4, "compress_layers": (2, 5)}}
WORDS = ["panda", "bear", "China", "Berlin", "people", "live", "in", "the", "city", "of", "art", "museum"]


def texts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 40))) for _ in range(count)]


REQUESTS = [("what is a giant panda?", texts(21)), ("Berlin", texts(9, 1)), ("people", texts(1, 2))]


@pytest.fixture(scope="module")
def full(layered: Any) -> Iterator[dict[str, Reranker]]:
    both = {kind: Reranker(layered(kind), device="cpu", **COMPRESSED[kind]) for kind in KINDS}
    yield both
    for reranker in both.values():
        reranker.close()


@pytest.fixture
def pruned(layered: Any) -> Iterator[Any]:
    made = []

    def make(kind: str = "layerwise", **options: Any) -> Reranker:
        made.append(Reranker(layered(kind), **{"device": "cpu", "progressive": STEPS, **COMPRESSED[kind], **options}))
        return made[-1]

    yield make
    for reranker in made:
        reranker.close()


def expected_ranking(full: Reranker, query: str, passages: Sequence[str]) -> list[tuple[int, int, float]]:
    """The rule once more, from the scores of full runs: (index, layer, score), best first."""
    scores = full.score_layers([(query, passage) for passage in passages], [3, 5, LAST])
    left = list(range(len(passages)))
    done: list[tuple[int, int, float]] = []
    for layer, share in ((3, 2), (5, 4), (LAST, None)):
        left.sort(key=lambda i, layer=layer: (-scores[layer][i], i))
        keep = 0 if share is None else max(1, -(-len(passages) // share))
        done = [(i, layer, scores[layer][i]) for i in left[keep:]] + done
        left = left[:keep]
    return done


def same(ranking: Sequence[RankedPassage], expected: Sequence[tuple[int, int, float]]) -> None:
    assert [(ranked.index, ranked.layer) for ranked in ranking] == [(index, layer) for index, layer, _ in expected]
    for ranked, (_, _, score) in zip(ranking, expected, strict=True):
        assert abs(ranked.score - score) <= TOLERANCE


@pytest.mark.parametrize("budget", [1, 200, 100_000])
@pytest.mark.parametrize("kind", KINDS)
def test_the_better_part_goes_on_and_the_rest_keeps_its_score(
    full: dict[str, Reranker], pruned: Any, kind: str, budget: int
) -> None:
    reranker = pruned(kind, max_batch_tokens=budget)
    for query, passages in REQUESTS:
        same(reranker.rank(query, passages), expected_ranking(full[kind], query, passages))
    left_early = sum(len(passages) - math.ceil(len(passages) / 4) for _, passages in REQUESTS)
    stats = reranker.stats()
    assert (stats.pruned_pairs, stats.pairs) == (left_early, 31)
    assert stats.computed_tokens == stats.tokens, "every pair is counted once, whatever becomes of it"


@pytest.mark.parametrize("kind", KINDS)
def test_survivors_score_to_the_last_bit_what_a_full_run_gives_them(layered: Any, pruned: Any, kind: str) -> None:
    """Pair by pair, so that the shapes of all products are the same in both runs."""
    query, passages = REQUESTS[0]
    with Reranker(layered(kind), device="cpu", max_batch_tokens=1, **COMPRESSED[kind]) as whole:
        scores = whole.score([(query, passage) for passage in passages])
    ranking = pruned(kind, max_batch_tokens=1).rank(query, passages)
    survived = [ranked for ranked in ranking if ranked.layer == LAST]
    assert len(survived) == 6
    assert [ranked.score for ranked in survived] == [scores[ranked.index] for ranked in survived]


def test_rankings_of_one_call_are_pruned_each_on_its_own(full: dict[str, Reranker], pruned: Any) -> None:
    """Also where they share pairs: a passage that leaves one ranking goes on in another."""
    shared = texts(8, 5)
    alone = [("panda", [passage]) for passage in shared]
    requests = [*REQUESTS, ("panda", shared[:6]), ("none", []), ("panda", shared[2:]), *alone]
    rankings = pruned().rank_many(requests)
    for (query, passages), ranking in zip(requests, rankings, strict=True):
        same(ranking, expected_ranking(full["layerwise"], query, passages) if passages else [])
    assert {ranked.layer for ranked in rankings[3]} == {3, 5, LAST}
    assert {ranked.layer for ranking in rankings[6:] for ranked in ranking} == {LAST}


@pytest.mark.parametrize("held", [0, 40, 200, 700])
@pytest.mark.parametrize("kind", KINDS)
def test_states_that_do_not_fit_are_computed_anew(
    full: dict[str, Reranker], pruned: Any, monkeypatch: pytest.MonkeyPatch, kind: str, held: int
) -> None:
    monkeypatch.setattr(progressive, "_HELD_BYTES", held * 32 * 4)  # tokens of the small models
    rankings = pruned(kind, max_batch_tokens=100).rank_many(REQUESTS)
    for (query, passages), ranking in zip(REQUESTS, rankings, strict=True):
        same(ranking, expected_ranking(full[kind], query, passages))


def test_equal_passages_share_score_and_fate(full: dict[str, Reranker], pruned: Any) -> None:
    query, passages = REQUESTS[1]
    ranking = pruned().rank(query, [*passages, *passages, passages[0]])
    once = expected_ranking(full["layerwise"], query, passages)
    assert [(r.index % 9, r.layer) for r in ranking if r.index < 9] == [(index, layer) for index, layer, _ in once]
    for index in range(9):
        copies = [r for r in ranking if r.index % 9 == index]
        assert len({(r.score, r.layer) for r in copies}) == 1
        assert [r.index for r in copies] == sorted(r.index for r in copies), "ties keep their order"


def test_who_calls_at_the_same_time_changes_nothing(full: dict[str, Reranker], pruned: Any) -> None:
    reranker = pruned()
    jobs = [(REQUESTS[i % 3][0], REQUESTS[i % 3][1][i % 4 :] or ["panda"]) for i in range(24)]
    with ThreadPoolExecutor(8) as callers:
        plain = callers.submit(reranker.score, [("Berlin", text) for text in texts(12, 3)])
        several = callers.submit(reranker.score_layers, [("Berlin", text) for text in texts(12, 3)], [LAST, 3])
        rankings = list(callers.map(lambda job: reranker.rank(*job), jobs))
    for job, ranking in zip(jobs, rankings, strict=True):
        same(ranking, expected_ranking(full["layerwise"], *job))
    assert max(abs(a - b) for a, b in zip(plain.result(), several.result()[LAST], strict=True)) <= TOLERANCE


async def test_tasks_of_an_event_loop_get_their_own_rankings(full: dict[str, Reranker], pruned: Any) -> None:
    reranker = pruned()
    rankings = await asyncio.gather(*(reranker.arank(*request) for request in REQUESTS * 3))
    for request, ranking in zip(REQUESTS * 3, rankings, strict=True):
        same(ranking, expected_ranking(full["layerwise"], *request))
    many = await reranker.arank_many(REQUESTS)
    assert [[r.index for r in ranking] for ranking in many] == [[r.index for r in ranking] for ranking in rankings[:3]]


def test_scores_asked_for_by_pair_are_all_of_the_last_layer(full: dict[str, Reranker], pruned: Any) -> None:
    pairs = [(query, passage) for query, passages in REQUESTS for passage in passages]
    reranker = pruned()
    assert max(abs(a - b) for a, b in zip(reranker.score(pairs), full["layerwise"].score(pairs), strict=True)) <= 3e-6
    assert reranker.stats().pruned_pairs == 0


def test_top_n_and_threshold_cut_the_pruned_ranking(full: dict[str, Reranker], pruned: Any) -> None:
    query, passages = REQUESTS[0]
    expected = expected_ranking(full["layerwise"], query, passages)
    reranker = pruned(normalize=True)
    assert [r.index for r in reranker.rank(query, passages, top_n=8)] == [index for index, _, _ in expected[:8]]
    scores = sorted(1 / (1 + math.exp(-score)) for _, _, score in expected)
    threshold = (scores[9] + scores[10]) / 2
    kept = reranker.rank(query, passages, score_threshold=threshold)
    wanted = [index for index, _, score in expected if 1 / (1 + math.exp(-score)) >= threshold]
    assert [r.index for r in kept] == wanted
    assert len(wanted) == 11
    assert reranker.rank(query, []) == []


def family_of(reranker: Reranker) -> Any:
    return reranker._executor._scorer._family  # type: ignore[union-attr]


@pytest.mark.parametrize("failing", ["first stage", "going on", "going on alone"])
def test_running_out_of_memory_costs_time_and_nothing_else(
    full: dict[str, Reranker], pruned: Any, failing: str
) -> None:
    reranker = pruned(max_batch_tokens=1 if failing == "going on alone" else 400)
    family, fails = family_of(reranker), [2]
    advance = family.advance

    def short_of_memory(batch: Any, states: Any, start: int, stop: int) -> Any:
        if fails[0] and (states is None) == (failing == "first stage"):
            fails[0] -= 1
            raise torch.OutOfMemoryError
        return advance(batch, states, start, stop)

    family.advance = short_of_memory
    if failing == "first stage":
        fails[0] = 1
    for query, passages in REQUESTS:
        same(reranker.rank(query, passages), expected_ranking(full["layerwise"], query, passages))
    assert fails[0] < 2


def test_a_pair_that_never_fits_is_an_error(pruned: Any) -> None:
    reranker = pruned()

    def no_memory(*_arguments: Any) -> Any:
        raise torch.OutOfMemoryError

    family_of(reranker).advance = no_memory
    with pytest.raises(DeviceError, match="single pair"):
        reranker.rank(*REQUESTS[0])


def test_a_score_that_is_no_number_is_an_error(pruned: Any) -> None:
    reranker = pruned()
    family = family_of(reranker)
    advance = family.advance

    def broken(batch: Any, states: Any, start: int, stop: int) -> Any:
        logits, after = advance(batch, states, start, stop)
        return logits * float("nan"), after

    family.advance = broken
    with pytest.raises(WorkerError, match="not a number"):
        reranker.rank(*REQUESTS[0])


def test_a_caller_that_leaves_frees_its_rankings(pruned: Any, full: dict[str, Reranker]) -> None:
    reranker = pruned(max_batch_tokens=64)
    busy = reranker._executor.submit([("panda", text) for text in texts(200, 7)], task=Task(counts=(200,)))
    busy.cancel()
    same(reranker.rank(*REQUESTS[1]), expected_ranking(full["layerwise"], *REQUESTS[1]))
    assert reranker.stats().forward_passes < 200


def test_several_devices_keep_rankings_whole(full: dict[str, Reranker], pruned: Any) -> None:
    pool = pruned(device="cpu:2")
    requests = [(f"{query} {i}", passages) for i in range(4) for query, passages in REQUESTS]
    for request, ranking in zip(requests, pool.rank_many(requests), strict=True):
        same(ranking, expected_ranking(full["layerwise"], *request))
    pairs = [(query, passage) for query, passages in requests for passage in passages]
    found, expected = (reranker.score_layers(pairs, [LAST, 3]) for reranker in (pool, full["layerwise"]))
    assert list(found) == [LAST, 3]
    for layer, scores in found.items():
        assert max(abs(a - b) for a, b in zip(scores, expected[layer], strict=True)) <= TOLERANCE
    with pytest.raises(ConfigError, match="layers 2 to 8"):
        pool.score_layers(pairs, [9])
    assert pool.stats().pruned_pairs == sum(len(p) - math.ceil(len(p) / 4) for _, p in requests)


def test_a_ranking_is_never_cut_between_workers() -> None:
    counts = (3, 1, 40, 2, 2)
    pairs = [(f"query {number}", f"{index} " * 2000) for number, count in enumerate(counts) for index in range(count)]
    shards = cut(Request(pairs, task=Task(counts=counts)), workers=2, most_characters=2000)
    assert len(shards) > 1
    assert sorted(count for shard in shards for count in shard.counts) == sorted(counts)
    for shard in shards:
        assert [pairs[index] for (index,) in shard.indices] == list(shard.pairs)
        assert sum(shard.counts) == len(shard.pairs)
        first = 0
        for count in shard.counts:
            assert len({query for query, _ in shard.pairs[first : first + count]}) == 1
            first += count


def test_an_answer_of_several_rows_is_cut_by_columns() -> None:
    answer = ScoredPairs([1.0, 2.0, 3.0, 10.0, 20.0, 30.0], [1, 2, 3, 1, 2, 3], [8, 8, 4, 8, 8, 4])
    left, right = parts_of(answer, [2, 1])
    assert left == ScoredPairs([1.0, 2.0, 10.0, 20.0], [1, 2, 1, 2], [8, 8, 8, 8])
    assert right == ScoredPairs([3.0, 30.0], [3, 3], [4, 4])


@pytest.mark.parametrize(
    "scores, fraction, count, kept",
    [
        ([1.0, 3.0, 2.0, 0.0], 0.5, 4, [1, 2]),
        ([1.0, 1.0, 1.0], 0.5, 3, [0, 1]),
        ([2.0, 1.0, 2.0, 2.0], 0.5, 4, [0, 2]),
        ([1.0, 2.0], 0.25, 8, [1, 0]),
        ([1.0, 2.0], 0.1, 10, [1]),
        ([1.0], 0.001, 1, [0]),
        ([float("nan"), -5.0, float("nan")], 0.5, 3, [1, 0]),
    ],
)
def test_the_best_go_on_and_the_first_among_equals(
    scores: list[float], fraction: float, count: int, kept: list[int]
) -> None:
    assert survivors(scores, fraction, count) == kept


def test_a_fraction_is_not_rounded_up_for_a_rounding_error() -> None:
    for percent in range(1, 100):
        assert len(survivors([0.0] * 100, percent / 100, 100)) == percent


def test_a_ranking_counts_distinct_pairs() -> None:
    ranking = Ranking.of([4, 7, 4, 9], first=10)
    assert ranking.places == {4: [10, 12], 7: [11], 9: [13]}
    assert ranking.prune({4: 0.5, 7: 0.9, 9: 0.1}, 0.5) == [9]
    assert ranking.alive == [4, 7]
    assert ranking.prune({4: 0.5, 7: 0.9}, None) == [4, 7]


@pytest.mark.parametrize(
    "steps, said",
    [
        (((1, 0.5),), "cannot leave at layer 1: below cutoff_layer=8 the heads are at layers 2 to 7"),
        (((3, 0.5), (8, 0.25)), "cannot leave at layer 8"),
        (((3, 0.5), (40, 0.25)), "cannot leave at layer 40"),
    ],
)
def test_steps_beyond_the_models_layers_are_refused(pruned: Any, steps: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        pruned(progressive=steps)
    with pytest.raises(ConfigError, match="below cutoff_layer=2 no layer has a head"):
        pruned(progressive=((3, 0.5),), cutoff_layer=2)
