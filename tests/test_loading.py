"""A wrong model is one clear error, and never a score."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import SPECS, build
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import ConfigError, ModelLoadError
from flag_rerank_integrations.families import loading


@pytest.fixture
def copy(tiny: Any, tmp_path: Path) -> Any:
    """Copies of small checkpoints to break."""

    def make(name: str) -> Path:
        return Path(shutil.copytree(tiny(name), tmp_path / name))

    return make


def edit_config(path: Path, **changes: Any) -> None:
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edit_weights(path: Path, edit: Any) -> None:
    file = str(path / "model.safetensors")
    weights = load_file(file)
    edit(weights)
    save_file(weights, file, metadata={"format": "pt"})


def refused(path: Path | str, match: str, **options: Any) -> None:
    with pytest.raises(ModelLoadError, match=match):
        Reranker(str(path), device="cpu", **options)


def test_no_such_directory() -> None:
    refused("/no/such/model", "no directory")
    refused("./no-such-model", "no directory")


def test_no_such_hub_model(tmp_path: Path) -> None:
    refused("no-such-owner/no-such-model", "not in the cache", local_files_only=True, cache_dir=tmp_path)


def test_directory_without_a_model(tmp_path: Path) -> None:
    refused(tmp_path, "config.json")


def test_config_that_is_not_json(copy: Any) -> None:
    path = copy("bert")
    (path / "config.json").write_text("{")
    refused(path, r"config\.json")


def test_embedding_model(tmp_path: Path, tiny: Any) -> None:
    shutil.copytree(tiny("bert"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    AutoModel.from_pretrained(tiny("bert")).save_pretrained(tmp_path)
    refused(tmp_path, "BertModel, not a reranker")
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Pooling"}]))
    refused(tmp_path, "embedding model")
    edit_config(tmp_path, architectures=["BertForSequenceClassification"])
    (tmp_path / "modules.json").unlink()
    refused(tmp_path, "lacks the weights classifier")


def test_language_model_without_a_classification_head(tmp_path: Path, tiny: Any) -> None:
    shutil.copytree(tiny("bert"), tmp_path, dirs_exist_ok=True)
    AutoModelForMaskedLM.from_pretrained(tiny("bert")).save_pretrained(tmp_path)
    refused(tmp_path, "BertForMaskedLM, not a reranker")


def test_missing_head(copy: Any) -> None:
    path = copy("xlm-roberta")
    edit_weights(path, lambda weights: weights.pop("classifier.out_proj.weight"))
    refused(path, r"lacks the weights classifier\.out_proj\.weight")


def test_missing_layer(copy: Any) -> None:
    path = copy("gemma")
    edit_weights(path, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    refused(path, r"model\.layers\.1\.mlp\.up_proj")


def test_unused_head(copy: Any) -> None:
    path = copy("bert")
    edit_weights(path, lambda weights: weights.update(other_head=torch.ones(2)))
    refused(path, "no place for: other_head")


def test_wrong_shapes(copy: Any) -> None:
    path = copy("bert")
    edit_config(path, hidden_size=64)
    refused(path, r"do not fit .* config\.json describes: bert\.embeddings\S+ 32 for 64, .* and \d+ more")


@pytest.mark.parametrize("labels", [2, 3])
def test_more_than_one_label(tmp_path: Path, labels: int) -> None:
    build(SPECS["bert"], tmp_path, num_labels=labels)
    refused(tmp_path, f"{labels} labels")


def test_truncated_weights(copy: Any) -> None:
    file = copy("bert") / "model.safetensors"
    whole = file.read_bytes()
    for kept, told in ((0, "0 bytes and is no whole"), (1000, "1,000 bytes and is no whole"), (-5, "bytes instead of")):
        file.write_bytes(whole[:kept])
        refused(file.parent, told)


def test_no_weights(copy: Any) -> None:
    path = copy("bert")
    (path / "model.safetensors").unlink()
    refused(path, "no .*safetensors")


def test_a_link_to_no_weights(copy: Any) -> None:
    file = copy("bert") / "model.safetensors"
    file.unlink()
    file.symlink_to("../../blobs/never-fetched")
    refused(file.parent, "model.safetensors' links to a file that is not there. Fetch it again")


@pytest.mark.parametrize("header", [b"{", b"[]", b'{"a": 1}', b'{"a": {"shape": [1]}}', b"\xff\xfe"])
def test_weights_with_a_broken_header(copy: Any, header: bytes) -> None:
    file = copy("bert") / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    refused(file.parent, "broken header")


@pytest.fixture
def sharded(copy: Any, tiny: Any) -> Path:
    """A checkpoint in several files and an index of them."""
    path = Path(copy("bert"))
    (path / "model.safetensors").unlink()
    model = AutoModelForSequenceClassification.from_pretrained(tiny("bert"))
    model.save_pretrained(path, max_shard_size="20KB")
    return path


def test_shards_load(tiny: Any, sharded: Path) -> None:
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    pairs = [("panda", "a bear"), ("panda", "Berlin")]
    with Reranker(str(sharded), device="cpu") as one, Reranker(tiny("bert"), device="cpu") as other:
        assert one.score(pairs) == other.score(pairs)


def test_a_shard_that_is_missing_or_cut_short_is_named(sharded: Path) -> None:
    first, second, *_ = sorted(sharded.glob("model-*.safetensors"))
    content = second.read_bytes()
    second.write_bytes(content[:-1])
    refused(sharded, f"{second.name}' has {len(content) - 1:,} bytes instead of {len(content):,}")
    second.unlink()
    refused(sharded, f"{second.name}' is missing")
    second.symlink_to("nowhere")
    refused(sharded, f"{second.name}' links to a file that is not there")
    (sharded / "model.safetensors.index.json").unlink()
    refused(sharded, rf"shards such as {first.name}, but no model\.safetensors\.index\.json")


def test_an_index_that_does_not_fit_its_shards(sharded: Path) -> None:
    file = sharded / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    shard = next(iter(index["weight_map"].values()))
    file.write_text(json.dumps({**index, "weight_map": {**index["weight_map"], "one.more": shard}}))
    refused(sharded, r"none of its \d+ shards has: one\.more")
    for broken in ("{", "[]", "{}", '{"weight_map": []}'):
        file.write_text(broken)
        refused(sharded, "no index of shards")


def test_pickled_weights_are_refused_unless_allowed(copy: Any, tiny: Any) -> None:
    path = copy("bert")
    torch.save(load_file(str(path / "model.safetensors")), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    refused(path, r"pickle \(pytorch_model\.bin\).*CVE-2025-32434, CVE-2026-24747.*allow_pickle=True")
    pairs = [("panda", "a bear"), ("panda", "Berlin")]
    with Reranker(str(path), device="cpu", allow_pickle=True) as one, Reranker(tiny("bert"), device="cpu") as other:
        assert one.score(pairs) == other.score(pairs)


def test_a_pickle_that_runs_code_is_refused_even_if_allowed(copy: Any, tmp_path: Path) -> None:
    path, marker = copy("bert"), tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    torch.save({"weight": Evil()}, path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    refused(path, "broken, or holds more than weights", allow_pickle=True)
    assert not marker.exists()


def test_safetensors_are_preferred_to_a_pickle(copy: Any) -> None:
    path = copy("bert")
    (path / "pytorch_model.bin").write_bytes(b"never read")
    with Reranker(str(path), device="cpu", allow_pickle=True) as reranker:
        assert len(reranker.score([("panda", "bear")])) == 1


def test_remote_code_is_not_run(copy: Any, tmp_path: Path) -> None:
    path = copy("bert")
    marker = tmp_path / "ran"
    (path / "evil.py").write_text(f"import pathlib; pathlib.Path({str(marker)!r}).touch()\nclass Config: pass\n")
    edit_config(path, model_type="evil", auto_map={"AutoConfig": "evil.Config"})
    refused(path, "could not be loaded")
    assert not marker.exists()


def test_no_tokenizer(copy: Any) -> None:
    path = copy("bert")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).unlink()
    refused(path, "no tokenizer")


def test_tokenizer_of_another_model(copy: Any) -> None:
    path = copy("bert")
    edit_config(path, vocab_size=100)
    edit_weights(
        path,
        lambda weights: weights.update(
            {name: rows[:100].clone() for name, rows in weights.items() if name.endswith("word_embeddings.weight")}
        ),
    )
    refused(path, "embeddings for 100")


@pytest.mark.parametrize(
    "architecture, family", [("LayerWiseMiniCPMForCausalLM", "layerwise"), ("CostWiseGemmaForCausalLM", "lightweight")]
)
def test_an_architecture_that_its_config_contradicts_is_refused(copy: Any, architecture: str, family: str) -> None:
    path = copy("gemma")
    refused(path, f"no {family} reranker", family=family)
    edit_config(path, architectures=[architecture])
    refused(path, f"no {family} reranker")


@pytest.mark.parametrize("name, limit", [("bert", 256), ("xlm-roberta", 256), ("modernbert", 256)])
def test_length_above_the_positions_names_both(tiny: Any, name: str, limit: int) -> None:
    with pytest.raises(ConfigError, match=rf"max_length={limit + 1}\b.*\b{limit}\b"):
        Reranker(tiny(name), device="cpu", max_length=limit + 1)
    with Reranker(tiny(name), device="cpu", max_length=limit) as reranker:
        assert len(reranker.score([("panda", "bear " * 900)])) == 1


def test_default_length_gives_way(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu") as reranker:
        assert reranker._executor._scorer._family.max_length == 256
        assert reranker.config.max_length == 1024


def test_family_is_read_from_the_files_not_the_name(tiny: Any, tmp_path: Path) -> None:
    path = shutil.copytree(tiny("bert"), tmp_path / "bge-reranker-v2-gemma")
    with Reranker(str(path), device="cpu") as reranker:
        assert reranker.stats().family == "encoder"


def test_prompt_for_an_encoder_is_refused(tiny: Any) -> None:
    with pytest.raises(ConfigError, match="prompt"):
        Reranker(tiny("bert"), device="cpu", prompt="Judge this.")


def test_backend_and_family_must_agree(tiny: Any) -> None:
    with pytest.raises(ConfigError, match="backend"):
        Reranker(tiny("bert"), device="cpu", backend="torch", family="onnx")


def test_half_precision_weights_load_as_asked(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu", dtype="bfloat16") as half, Reranker(tiny("bert"), device="cpu") as full:
        assert half._executor._scorer._family.model.dtype == torch.bfloat16
        pairs = [("panda", "a bear"), ("panda", "Berlin is a city of people")]
        assert half.score(pairs) == pytest.approx(full.score(pairs), abs=0.1)
        assert half.score(pairs) != full.score(pairs)


@pytest.mark.parametrize("name", ["bert", "modernbert", "gemma2", "qwen3-classifier"])
def test_weights_read_straight_onto_the_device_are_the_same(
    tiny: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done on accelerators, done on the CPU."""
    pairs = [("panda", "the giant panda lives in China"), ("panda", "the Nile")]
    with Reranker(tiny(name), device="cpu") as moved:
        expected = moved.score(pairs)
    monkeypatch.setattr(loading, "_PLACED_AT_LOAD", ("cpu",))
    with Reranker(tiny(name), device="cpu") as placed:
        assert loading._placed_at_load(Device("cpu")) == {"device_map": {"": "cpu"}}
        assert placed.score(pairs) == expected
