"""Loading layerwise and lightweight checkpoints: what is read of them, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from layered_models import MARK, build, save
from safetensors.torch import load_file
from tiny_tokenizers import gemma_tokenizer

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import ConfigError, ModelLoadError

PAIRS = [("panda", "The giant panda is a bear."), ("Berlin", "hi")]
KINDS = pytest.mark.parametrize("kind", ["layerwise", "lightweight"])


def rebuild(path: Path, edit: Callable[[dict[str, torch.Tensor]], None], shards: int = 2) -> Path:
    """Edit a checkpoint's weights."""
    files = sorted(path.glob("*.safetensors"))
    weights = {name: weight for file in files for name, weight in load_file(file).items()}
    for file in files:
        file.unlink()
    edit(weights)
    save(weights, path, shards)
    return path


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def scores(path: Path | str, **options: Any) -> list[float]:
    with Reranker(str(path), device="cpu", max_length=64, **options) as reranker:
        return reranker.score(PAIRS)


def refused(path: Path | str, match: str, error: type[Exception] = ModelLoadError, **options: Any) -> None:
    with pytest.raises(error, match=match):
        Reranker(str(path), device="cpu", **options)


@pytest.mark.parametrize("trust", [False, True])
@KINDS
def test_code_that_comes_with_a_checkpoint_is_never_run(tmp_path: Path, kind: str, *, trust: bool) -> None:
    path = build(kind, tmp_path)
    assert "auto_map" in json.loads((path / "config.json").read_text())
    assert len(scores(path, trust_remote_code=trust)) == len(PAIRS)
    assert len(list(path.glob("*.py"))) == 2
    assert not (path / MARK).exists()


@KINDS
def test_nothing_behind_the_cutoff_is_read(layered: Any, tmp_path: Path, kind: str) -> None:
    """Layers and heads behind it may be missing from the files."""
    path = build(kind, tmp_path)
    expected = scores(path, cutoff_layer=4)

    def drop(weights: dict[str, torch.Tensor]) -> None:
        for name in list(weights):
            parts = name.split(".")
            if (parts[0] == "lm_head" and int(parts[1]) > 2) or (parts[1] == "layers" and int(parts[2]) >= 4):
                del weights[name]

    rebuild(path, drop)
    assert scores(path, cutoff_layer=4) == expected
    refused(path, r"lacks the weights .*layers\.4\..* and \d+ more")


def test_the_first_head_alone_is_read_unless_they_are_to_match(tmp_path: Path) -> None:
    path = rebuild(build("lightweight", tmp_path), lambda weights: weights.pop("lm_head.6.linear_head.weight"))
    assert len(scores(path)) == len(PAIRS)
    refused(path, r"lacks the weights lm_head\.6", matched_head=True)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
@KINDS
def test_weights_are_read_into_the_data_type_asked_for(tmp_path: Path, kind: str, stored: torch.dtype) -> None:
    path = build(kind, tmp_path)

    def convert(weights: dict[str, torch.Tensor]) -> None:
        weights.update({name: weight.to(stored) for name, weight in weights.items()})

    rebuild(path, convert, shards=1)
    with Reranker(str(path), device="cpu", dtype="float32") as reranker:
        model = reranker._executor._scorer._family  # type: ignore[union-attr]
        assert {weight.dtype for weight in model._decoder.parameters()} == {torch.float32}
        assert len(reranker.score(PAIRS)) == len(PAIRS)


def test_one_file_without_an_index_will_do(tmp_path: Path) -> None:
    path = build("layerwise", tmp_path)
    expected = scores(path)
    rebuild(path, lambda _weights: None, shards=1)
    (path / "model.safetensors.index.json").unlink()
    (path / "model-00001-of-00001.safetensors").rename(path / "model.safetensors")
    assert scores(path) == expected


def test_weights_that_only_repeat_the_config_are_passed_over(tmp_path: Path) -> None:
    path = build("layerwise", tmp_path)
    expected = scores(path)
    rebuild(path, lambda weights: weights.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    assert scores(path) == expected


def test_one_head_for_all_layers(tmp_path: Path) -> None:
    path = build("layerwise", tmp_path)

    def merge(weights: dict[str, torch.Tensor]) -> None:
        head = weights["lm_head.6.linear_head.weight"].clone()
        for index in range(7):
            del weights[f"lm_head.{index}.linear_head.weight"]
        weights["lm_head.linear_head.weight"] = head

    expected = scores(path)
    rebuild(path, merge)
    edit_json(path / "config.json", head_multi=False)
    assert scores(path) == expected


def test_heads_in_steps(tmp_path: Path) -> None:
    path = build("lightweight", tmp_path, layer_sep=3)
    with Reranker(str(path), device="cpu", matched_head=True) as reranker:
        assert list(reranker.score_layers(PAIRS, [8, 2, 5])) == [8, 2, 5]
        with pytest.raises(ConfigError, match="layers 2 to 8 in steps of 3"):
            reranker.score_layers(PAIRS, [3])


def test_biases_are_read_where_the_config_has_them_and_refused_where_not(tmp_path: Path) -> None:
    path = build("layerwise", tmp_path)
    expected = scores(path)

    def add(value: float) -> Callable[[dict[str, torch.Tensor]], None]:
        names = [f"model.layers.{i}.self_attn.{part}_proj.bias" for i in range(8) for part in "qkvo"]
        return lambda weights: weights.update({name: torch.full((32,), value) for name in names})

    rebuild(path, add(0.0))
    refused(path, r"no place for: model\.layers\.0\.self_attn\.k_proj\.bias")
    edit_json(path / "config.json", attention_bias=True)
    assert scores(path) == expected
    assert scores(rebuild(path, add(0.1))) != expected


def test_a_file_that_the_index_names_is_missing(tmp_path: Path) -> None:
    path = build("layerwise", tmp_path)
    (path / "model-00002-of-00003.safetensors").unlink()
    refused(path, r"model-00002-of-00003\.safetensors' is missing")


def test_broken_files(tmp_path: Path) -> None:
    path = build("layerwise", tmp_path)
    index = path / "model.safetensors.index.json"
    index.write_text('{"weight_map": ["a"]}')
    refused(path, r"model\.safetensors\.index\.json' is no index of shards")
    build("layerwise", tmp_path)
    file = path / "model-00001-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:400])
    refused(path, r"model-00001-of-00003\.safetensors' .* no whole safetensors file")


def test_pickles_are_refused_even_where_they_are_allowed(tmp_path: Path) -> None:
    path = build("lightweight", tmp_path, shards=1)
    (path / "model.safetensors.index.json").unlink()
    (path / "model-00001-of-00001.safetensors").rename(path / "pytorch_model.bin")
    refused(path, "CVE-2025-32434")
    refused(path, "from safetensors only", allow_pickle=True)


def test_another_shape_than_the_config_says(tmp_path: Path) -> None:
    path = build("layerwise", tmp_path)
    edit_json(path / "config.json", intermediate_size=64)
    refused(path, r"has the shape \(\d+, \d+\); its config.json asks for")


@pytest.mark.parametrize(
    "kind, changes, said",
    [
        ("layerwise", {"hidden_size": None}, "has no hidden_size; it must be a whole number"),
        ("layerwise", {"num_attention_heads": 0}, "has num_attention_heads=0"),
        ("layerwise", {"head_type": "raw"}, "has head_type='raw'; it must be one of simple"),
        ("layerwise", {"hidden_act": "relu"}, "has hidden_act='relu'"),
        ("layerwise", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, r"scales its positions \(dynamic\)"),
        ("layerwise", {"rms_norm_eps": "small"}, "must be a positive number"),
        ("layerwise", {"start_layer": 9}, "has start_layer=9; it must be at most num_hidden_layers=8"),
        ("layerwise", {"start_layer": None}, "no layerwise reranker"),
        ("lightweight", {"layer_wise": False}, "no lightweight reranker"),
        ("lightweight", {"start_layer": 9}, "has start_layer=9"),
        ("lightweight", {"head_dim": None}, "has no head_dim"),
        ("lightweight", {"hidden_activation": "silu"}, "has hidden_activation='silu'"),
    ],
)
def test_a_config_that_cannot_be_followed(layered: Any, tmp_path: Path, kind: str, changes: Any, said: str) -> None:
    path = build(kind, tmp_path, shards=1)
    edit_json(path / "config.json", **changes)
    refused(path, said)


def test_newer_forms_of_config_json_say_the_same(tmp_path: Path) -> None:
    path = build("lightweight", tmp_path)
    expected = scores(path)
    kinds = ["sliding_attention", "full_attention"] * 4
    edit_json(path / "config.json", rope_theta=None, layer_types=kinds)
    edit_json(path / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    assert scores(path) == expected
    edit_json(path / "config.json", layer_types=kinds[::-1])
    with Reranker(str(path), device="cpu") as reranker:
        long = [("panda", "bear " * 40)]
        other = reranker.score(long)
    edit_json(path / "config.json", layer_types=None, sliding_window=None)
    with Reranker(str(path), device="cpu") as reranker:
        assert abs(reranker.score(long)[0] - other[0]) > 1e-4, "windows must matter"


def test_a_tokenizer_that_does_not_fit(tmp_path: Path) -> None:
    path = build("layerwise", tmp_path)
    edit_json(path / "config.json", vocab_size=10)
    refused(path, "embeddings for 10")
    edit_json(path / "config.json", vocab_size=len(gemma_tokenizer()))
    settings = path / "tokenizer_config.json"
    edit_json(settings, bos_token=None)
    refused(path, "names no bos token")
    (path / "tokenizer.json").write_text("{}")
    refused(path, "tokenizer .* could not be loaded")
    (path / "tokenizer.json").unlink()
    refused(path, r"has no tokenizer\.json")


@pytest.mark.parametrize("cutoff", [1, 9, 28])
@KINDS
def test_a_cutoff_out_of_range_names_the_range(layered: Any, kind: str, cutoff: int) -> None:
    refused(layered(kind), f"cutoff_layer={cutoff} .* heads at layers 2 to 8", ConfigError, cutoff_layer=cutoff)


def test_lengths_beyond_the_positions_are_refused(layered: Any) -> None:
    refused(layered("layerwise"), "max_length=512 is above the", ConfigError, max_length=512)


def test_compress_layers_beyond_the_model_are_refused(layered: Any) -> None:
    said = "compress_layers=8 is out of range: .* at layers 1 to 7"
    refused(layered("lightweight"), said, ConfigError, compress_ratio=2, compress_layers=(3, 8))
    behind_the_cutoff = {"cutoff_layer": 4, "compress_ratio": 2}
    assert scores(layered("lightweight"), compress_layers=(5,), **behind_the_cutoff) == scores(
        layered("lightweight"), cutoff_layer=4
    )


@pytest.mark.parametrize(
    "options, said",
    [
        ({"cutoff_layer": 2}, "cutoff_layer is an option of layerwise and lightweight models"),
        ({"progressive": ((2, 0.5),)}, "progressive is an option of layerwise and lightweight models"),
        ({"compress_ratio": 2}, "compress_ratio is an option of lightweight models"),
        ({"compress_layers": (4,)}, "compress_layers is an option of lightweight models"),
        ({"matched_head": True}, "matched_head is an option of lightweight models"),
    ],
)
def test_options_of_layered_models_are_refused_elsewhere(tiny: Any, layered: Any, options: Any, said: str) -> None:
    for name in ("bert", "gemma"):
        refused(tiny(name), f"{said}; .* family", ConfigError, **options)
    if "layerwise" not in said:
        refused(layered("layerwise"), said, ConfigError, **options)


@KINDS
def test_the_family_may_be_named(layered: Any, kind: str) -> None:
    assert scores(layered(kind), family=kind) == scores(layered(kind))
    other = {"layerwise": "lightweight", "lightweight": "layerwise"}[kind]
    refused(layered(kind), f"no {other} reranker", family=other)
