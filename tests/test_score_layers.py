"""Scores of several layers in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import ConfigError, InputError

PAIRS = [("panda", "bear " * n + "China") for n in (1, 9, 3, 27, 3)]
KINDS = pytest.mark.parametrize("kind", ["layerwise", "lightweight"])
TOLERANCE = 3e-6


@pytest.fixture(scope="module")
def live(layered: Any) -> Iterator[dict[str, Reranker]]:
    options = {"layerwise": {}, "lightweight": {"compress_ratio": 2, "compress_layers": (3, 6)}}
    both = {kind: Reranker(layered(kind), device="cpu", **chosen) for kind, chosen in options.items()}
    yield both
    for reranker in both.values():
        reranker.close()


def off(scores: list[float], expected: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(scores, expected, strict=True))


@KINDS
def test_a_layer_alone_equals_the_same_layer_among_others(live: dict[str, Reranker], kind: str) -> None:
    reranker = live[kind]
    alone = {layer: reranker.score_layers(PAIRS, [layer])[layer] for layer in range(2, 9)}
    for layers in ([2, 3, 4, 5, 6, 7, 8], [8, 2, 5], [7, 7, 3, 7], (6,), range(8, 1, -3)):
        found = reranker.score_layers(iter(PAIRS), iter(layers))
        assert list(found) == list(dict.fromkeys(layers))
        assert all(off(scores, alone[layer]) <= TOLERANCE for layer, scores in found.items())
    assert off(reranker.score(PAIRS), alone[8]) <= TOLERANCE
    assert min(off(alone[layer], alone[layer + 1]) for layer in range(2, 8)) > 0.01


@KINDS
def test_several_layers_cost_one_pass(live: dict[str, Reranker], kind: str) -> None:
    before = live[kind].stats()
    live[kind].score_layers(PAIRS, [2, 4, 8])
    after = live[kind].stats()
    assert after.forward_passes - before.forward_passes == 1
    assert after.pairs - before.pairs == len(PAIRS)


async def test_async_and_normalized_scores(live: dict[str, Reranker], layered: Any) -> None:
    expected = live["layerwise"].score_layers(PAIRS, [3, 8])
    assert await live["layerwise"].ascore_layers(PAIRS, [3, 8]) == expected
    assert live["layerwise"].score_layers([], [3, 8]) == {3: [], 8: []}
    with Reranker(layered("layerwise"), device="cpu", normalize=True, progress=True) as reranker:
        for layer, scores in reranker.score_layers(PAIRS, [3, 8]).items():
            assert off(scores, [1 / (1 + math.exp(-score)) for score in expected[layer]]) <= TOLERANCE


@pytest.mark.parametrize("layers", [[1], [2, 9], [0], [-2], [8, 400]])
@KINDS
def test_a_layer_out_of_range_names_the_range(live: dict[str, Reranker], kind: str, layers: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"^Layer -?\d+ cannot be read: .* heads at layers 2 to 8\.$"):
        live[kind].score_layers(PAIRS, layers)
    assert len(live[kind].score(PAIRS)) == len(PAIRS)


def test_layers_behind_the_cutoff_were_not_loaded(layered: Any) -> None:
    with Reranker(layered("layerwise"), device="cpu", cutoff_layer=5) as reranker:
        assert list(reranker.score_layers(PAIRS, [5, 2])) == [5, 2]
        with pytest.raises(ConfigError, match=r"Layer 6 cannot be read: .* layers 2 to 5\."):
            reranker.score_layers(PAIRS, [6])


@pytest.mark.parametrize("layers", [[], 8, "8", b"8", None, [8.0], [True], ["8"], [[8]], [None]], ids=repr)
def test_what_names_no_layers_is_refused(live: dict[str, Reranker], layers: Any) -> None:
    with pytest.raises(ConfigError, match=r"^layers must be "):
        live["layerwise"].score_layers(PAIRS, layers)
    with pytest.raises(InputError):
        live["layerwise"].score_layers(["no pair"], [8])  # type: ignore[list-item]


def test_other_families_have_no_layers_to_choose_from(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu") as reranker:
        with pytest.raises(ConfigError, match="encoder family has one score for a pair"):
            reranker.score_layers(PAIRS, [2])
        assert len(reranker.score(PAIRS)) == len(PAIRS)
