"""Layerwise and lightweight models: their scores, layer by layer, against the maths in float64."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from layered_models import build
from layered_reference import Reference
from transformers import Gemma2Config, Gemma2Model, LlamaConfig, LlamaModel

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.families.compression import Parts, compress

TOLERANCE = 1e-5
LENGTH = 128
LAYERS = range(2, 9)
PAIRS = [
    ("what is a giant panda?", "The giant panda is a bear species endemic to China."),
    ("what is a giant panda?", "hi"),
    (
        "How many people live in Berlin?",
        "3,520,031 registered inhabitants in an area of 891.82 square kilometers. " * 3,
    ),
    ("大熊猫", "大熊猫是中国特有的熊科动物。" * 4),
    ("</s> <bos>", "<eos> is text here, as is <pad>"),
    ("panda " * 150, "a query that leaves the passage little room"),
    ("", ""),
]
SOME_PAIRS = [*PAIRS[1:4], PAIRS[-1]]
KINDS = pytest.mark.parametrize("kind", ["layerwise", "lightweight"])
COMPRESSIONS = [
    {"ratio": 1, "compress_layers": (2,)},
    {"ratio": 2, "compress_layers": (2,)},
    {"ratio": 4, "compress_layers": (3, 5)},
    {"ratio": 8, "compress_layers": (1, 4, 7)},
]


@pytest.fixture(scope="module")
def live(layered: Any) -> Iterator[dict[str, Reranker]]:
    both = {kind: Reranker(layered(kind), device="cpu", max_length=LENGTH) for kind in ("layerwise", "lightweight")}
    yield both
    for reranker in both.values():
        reranker.close()


def off(scores: list[float], expected: list[float]) -> float:
    assert len(scores) == len(expected)
    return max(abs(a - b) for a, b in zip(scores, expected, strict=True))


def family_of(reranker: Reranker) -> Any:
    return reranker._executor._scorer._family  # type: ignore[union-attr]


@KINDS
def test_every_layers_score_is_that_of_the_maths(layered: Any, live: dict[str, Reranker], kind: str) -> None:
    reference = Reference(layered(kind))
    expected = [reference.scores(pair, LAYERS, max_length=LENGTH) for pair in PAIRS]
    family = family_of(live[kind])
    table = family.forward_layers(family.encode(PAIRS), LAYERS)
    for column, layer in enumerate(LAYERS):
        wanted = [scores[column] for scores in expected]
        assert max(wanted) - min(wanted) > 0.1, f"layer {layer} must tell pairs apart"
        assert off(table[:, column].tolist(), wanted) <= TOLERANCE
    assert off(live[kind].score(PAIRS), [scores[-1] for scores in expected]) <= TOLERANCE


@pytest.mark.parametrize("matched", [False, True])
@pytest.mark.parametrize("compression", COMPRESSIONS, ids=lambda c: f"{c['ratio']} at {c['compress_layers']}")
def test_compressed_scores_are_those_of_the_maths(layered: Any, compression: dict[str, Any], *, matched: bool) -> None:
    reference = Reference(layered("lightweight"))
    options = {"compress_ratio": compression["ratio"], "compress_layers": compression["compress_layers"]}
    with Reranker(layered("lightweight"), device="cpu", max_length=LENGTH, matched_head=matched, **options) as reranker:
        family = family_of(reranker)
        table = family.forward_layers(family.encode(SOME_PAIRS), LAYERS)
    for row, pair in zip(table.tolist(), SOME_PAIRS, strict=True):
        expected = reference.scores(pair, LAYERS, max_length=LENGTH, matched=matched, **compression)
        assert off(row, expected) <= TOLERANCE


def test_heads_differ_and_the_first_is_the_default(layered: Any) -> None:
    reference = Reference(layered("lightweight"))
    first, matched = (reference.scores(PAIRS[0], [5], max_length=LENGTH, matched=m)[0] for m in (False, True))
    assert abs(first - matched) > 0.1
    for choice, expected in (({}, first), ({"matched_head": True}, matched)):
        with Reranker(layered("lightweight"), device="cpu", max_length=LENGTH, cutoff_layer=5, **choice) as reranker:
            assert off(reranker.score(PAIRS[:1]), [expected]) <= TOLERANCE


@KINDS
def test_packed_scores_are_those_of_pairs_alone(live: dict[str, Reranker], kind: str) -> None:
    family = family_of(live[kind])
    alone = [float(family.forward([pair])[0]) for pair in family.encode(PAIRS)]
    assert off(live[kind].score(PAIRS), alone) <= 3e-6
    stats = live[kind].stats()
    assert (stats.layout, stats.family, stats.padding_fraction) == ("packed", kind, 0.0)


@KINDS
def test_a_model_loaded_to_a_cutoff_scores_as_one_loaded_whole(
    layered: Any, live: dict[str, Reranker], kind: str
) -> None:
    family = family_of(live[kind])
    for cutoff in (2, 5, 8):
        with Reranker(layered(kind), device="cpu", max_length=LENGTH, cutoff_layer=cutoff) as reranker:
            assert len(family_of(reranker)._decoder.layers) == cutoff
            assert family_of(reranker)._heads.weights.dtype == torch.float32
            assert off(reranker.score(PAIRS), family.forward_layers(family.encode(PAIRS), [cutoff])[:, 0]) <= 3e-6


@pytest.mark.parametrize("dtype, allowed", [("bfloat16", 0.5), ("float16", 0.05)])
@KINDS
def test_half_precision_stays_close(
    layered: Any, live: dict[str, Reranker], kind: str, dtype: str, allowed: float
) -> None:
    with Reranker(layered(kind), device="cpu", max_length=LENGTH, dtype=dtype) as reranker:
        difference = off(reranker.score(PAIRS), live[kind].score(PAIRS))
    assert 0 < difference <= allowed


@KINDS
def test_threads_get_their_own_scores(live: dict[str, Reranker], kind: str) -> None:
    expected = live[kind].score(PAIRS)
    with ThreadPoolExecutor(8) as callers:
        calls = [callers.submit(live[kind].score, PAIRS[i % len(PAIRS) :]) for i in range(24)]
    for i, call in enumerate(calls):
        assert off(call.result(), expected[i % len(PAIRS) :]) <= 3e-6


@KINDS
def test_a_copy_scores_the_same(layered: Any, live: dict[str, Reranker], kind: str) -> None:
    for copied in (pickle.loads(pickle.dumps(live[kind])), copy.deepcopy(live[kind])):
        with copied:
            assert off(copied.score(PAIRS[:3]), live[kind].score(PAIRS[:3])) <= 3e-6


@KINDS
def test_a_long_passage_may_be_read_in_windows(layered: Any, kind: str) -> None:
    long = ("Berlin", PAIRS[2][1] * 4)
    options = {"compress_ratio": 2, "compress_layers": (3,)} if kind == "lightweight" else {}
    with Reranker(layered(kind), device="cpu", max_length=LENGTH, long_passages="windows", **options) as reranker:
        family = family_of(reranker)
        (pair,) = family.encode([long])
        windows = family.forward_layers([pair, *pair.rest], [5, 8])
        assert len(windows) > 3
        assert off(reranker.score([long]), [windows[:, 1].max()]) <= 3e-6
        assert off(reranker.score_layers([long], [5])[5], [windows[:, 0].max()]) <= 3e-6
        assert reranker.stats().truncated_pairs == 0


def test_compression_keeps_query_and_prompt_and_averages_the_passage() -> None:
    hidden = torch.arange(20.0)[:, None].repeat(1, 3)
    shorter, parts = compress(hidden, [Parts(2, 7, 1), Parts(1, 0, 2), Parts(1, 4, 2)], 4)
    assert parts == [Parts(2, 2, 1), Parts(1, 0, 2), Parts(1, 1, 2)]
    first = [0.0, 1.0, 3.5, 7.0, 9.0]  # 2 to 5 and 6 to 8 become their means
    assert shorter[:, 0].tolist() == [*first, 10.0, 11.0, 12.0, 13.0, 15.5, 18.0, 19.0]


def like_transformers(kind: str, values: dict[str, Any]) -> Any:
    """A decoder of transformers' own of the same shape."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "rms_norm_eps", "max_position_embeddings")  # fmt: skip
    gemma = ("head_dim", "query_pre_attn_scalar", "attn_logit_softcapping", "sliding_window")
    shape = {name: values[name] for name in (names if kind == "layerwise" else (*names, *gemma))}
    if kind == "layerwise":
        return LlamaModel(LlamaConfig(**shape, attn_implementation="eager"))
    return Gemma2Model(Gemma2Config(**shape, attn_implementation="eager"))


@KINDS
def test_decoders_agree_with_those_of_transformers(tmp_path: Path, kind: str) -> None:
    """Llama and Gemma 2 as transformers maintains them; MiniCPM's two scales are set so that it is Llama."""
    scales = {"scale_emb": 1, "scale_depth": 8**0.5} if kind == "layerwise" else {}
    path = build(kind, tmp_path, **scales)
    with Reranker(str(path), device="cpu", max_length=LENGTH) as reranker, torch.inference_mode():
        family = family_of(reranker)
        ids = torch.tensor(family.encode(PAIRS)[2].ids)
        model = like_transformers(kind, json.loads((path / "config.json").read_text())).eval()
        model.load_state_dict(family._decoder.state_dict(), strict=True)
        expected = model(ids[None], output_hidden_states=True, use_cache=False).hidden_states
        hidden = family._decoder.embed(ids)
        for layer in range(7):
            hidden = family._decoder.run(hidden, [len(ids)], range(layer, layer + 1))
            assert len(ids) > 2 * 16, "longer than the window"
            assert float((hidden - expected[layer + 1][0]).abs().max()) <= TOLERANCE * float(hidden.abs().max())
