"""RerankConfig: what it accepts, what it refuses, and that it survives every way of being copied."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flag_rerank_integrations.config import DEFAULT_MAX_LENGTH, DEFAULT_MODEL, QUICKSTART, RerankConfig
from flag_rerank_integrations.errors import ConfigError

COUNTS = st.integers(1, 10**6)
TEXTS = st.text(min_size=1, max_size=20)
VALID: dict[str, st.SearchStrategy[Any]] = {
    "model": TEXTS,
    "device": st.sampled_from(["auto", "cpu", "cuda:1", "mps", ("cuda:0", "cuda:1"), "all", "cpu:2"]),
    "dtype": st.sampled_from(["auto", "float32", "float16", "bfloat16"]),
    "max_length": st.integers(8, 100_000),
    "max_batch_tokens": st.just("auto") | COUNTS,
    "normalize": st.booleans(),
    "instruction": st.none() | st.text(max_size=20),
    "passage_instruction": st.none() | st.text(max_size=20),
    "prompt": st.none() | st.text(max_size=20),
    "family": st.sampled_from(
        ["auto", "encoder", "causal", "onnx", "sentence-transformers", "layerwise", "lightweight"]
    ),
    "backend": st.sampled_from(["auto", "torch", "onnx"]),
    "cutoff_layer": st.none() | COUNTS,
    "progressive": st.none() | st.sampled_from([((8, 0.5),), [[8, 0.5], [20, 0.25]]]),
    "compress_ratio": st.sampled_from([1, 2, 4, 8]),
    "compress_layers": st.lists(COUNTS, max_size=3),
    "matched_head": st.booleans(),
    "long_passages": st.sampled_from(["truncate", "windows", "error"]),
    "revision": st.none() | TEXTS,
    "cache_dir": st.none() | TEXTS,
    "local_files_only": st.booleans(),
    "allow_pickle": st.booleans(),
    "trust_remote_code": st.booleans(),
    "special_tokens": st.sampled_from(["plain", "parse", "escape"]),
    "progress": st.booleans(),
    "timeout": st.none() | st.integers(1, 10**6) | st.floats(0, 1e6, exclude_min=True),
}
configs = (
    st.fixed_dictionaries({}, optional=VALID)
    .filter(lambda options: not (options.get("progressive") and options.get("long_passages") == "windows"))
    .map(lambda options: RerankConfig(**options))
)


@given(configs)
def test_json_round_trip(config: RerankConfig) -> None:
    again = RerankConfig.from_json(config.to_json())
    assert again == config
    assert type(again.max_length) is type(config.max_length)
    assert json.loads(config.to_json()) == config.to_dict()


@given(configs)
def test_copies_are_equal_and_keep_a_default_length_a_default(config: RerankConfig) -> None:
    for again in (pickle.loads(pickle.dumps(config)), copy.copy(config), copy.deepcopy(config), config.replace()):
        assert again == config
        assert hash(again) == hash(config)
        assert (again.max_length is DEFAULT_MAX_LENGTH) == (config.max_length is DEFAULT_MAX_LENGTH)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_default_length_is_one_object_after_pickling(protocol: int) -> None:
    assert pickle.loads(pickle.dumps(DEFAULT_MAX_LENGTH, protocol)) is DEFAULT_MAX_LENGTH
    assert pickle.loads(pickle.dumps(RerankConfig(), protocol)).max_length is DEFAULT_MAX_LENGTH


def test_a_default_length_stays_unsaid_and_a_chosen_one_is_said() -> None:
    assert "max_length" not in RerankConfig().to_dict()
    assert RerankConfig(max_length=1024).to_dict()["max_length"] == 1024
    chosen = RerankConfig.from_json(RerankConfig(max_length=1024).to_json())
    assert chosen.max_length is not DEFAULT_MAX_LENGTH


def test_defaults() -> None:
    config = RerankConfig()
    assert config.model == DEFAULT_MODEL == "BAAI/bge-reranker-v2-m3"
    assert QUICKSTART == "quickstart"
    assert config.max_length == 1024
    assert config.trust_remote_code is False
    assert config.special_tokens == "plain"


def test_it_is_immutable() -> None:
    config = RerankConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.model = "another"  # type: ignore[misc]
    assert config.replace(model="another").model == "another"
    assert config.model == DEFAULT_MODEL


def test_loose_forms_become_one_form(tmp_path: Path) -> None:
    import torch

    config = RerankConfig(model=tmp_path, dtype=torch.bfloat16, device=torch.device("cuda", 1))
    assert (config.model, config.dtype, config.device) == (str(tmp_path), "bfloat16", "cuda:1")
    assert RerankConfig(device=2).device == "cuda:2"
    assert RerankConfig(device=[0, "cuda:3"]).device == ("cuda:0", "cuda:3")
    assert [RerankConfig(dtype=name).dtype for name in ("fp32", "fp16", "bf16")] == ["float32", "float16", "bfloat16"]
    assert RerankConfig(compress_layers=[8]).compress_layers == (8,)  # type: ignore[arg-type]
    assert RerankConfig(progressive=[[8, 0.5]]).progressive == ((8, 0.5),)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, True, 7, 1.5, "", b"text", ["text"], object()], ids=repr)
@pytest.mark.parametrize("name", ["model", "dtype", "family", "backend", "special_tokens", "long_passages"])
def test_names_must_be_strings(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be "):
        RerankConfig.from_dict({name: value})


@pytest.mark.parametrize("value", [True, 7, 1.5, b"text", ["text"]], ids=repr)
@pytest.mark.parametrize("name", ["instruction", "passage_instruction", "prompt", "revision", "cache_dir"])
def test_texts_must_be_strings_or_none(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be a string or None"):
        RerankConfig.from_dict({name: value})


@pytest.mark.parametrize("value", [None, 0, 1, "yes", "False"], ids=repr)
@pytest.mark.parametrize(
    "name", ["normalize", "matched_head", "local_files_only", "allow_pickle", "trust_remote_code", "progress"]
)
def test_switches_must_be_true_or_false(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be True or False"):
        RerankConfig.from_dict({name: value})


@pytest.mark.parametrize("value", [True, 0, -1, 2.0, "512", float("nan"), [512]], ids=repr)
@pytest.mark.parametrize(
    "name", ["max_length", "query_max_length", "max_batch_tokens", "compress_ratio", "cutoff_layer"]
)
def test_counts_must_be_positive_whole_numbers(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be "):
        RerankConfig.from_dict({name: value})


@pytest.mark.parametrize("value", [True, 0, -1.0, "5", float("inf"), float("nan")], ids=repr)
def test_a_timeout_is_a_positive_number_of_seconds(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^timeout must be a positive number of seconds or None"):
        RerankConfig.from_dict({"timeout": value})


@pytest.mark.parametrize("value", [None, True, [True], ["cpu", None], [["cpu"]]], ids=repr)
def test_what_cannot_name_a_device_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^device must be "):
        RerankConfig.from_dict({"device": value})


DTYPES = ("auto", "float32", "float16", "bfloat16", "fp32", "fp16", "bf16")


@given(st.text().filter(lambda text: text.removeprefix("torch.") not in DTYPES))
def test_an_unknown_dtype_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^dtype must be (one of 'auto', 'float32', 'float16', 'bfloat16'|a non-empty string), not "
    ):
        RerankConfig(dtype=name)


def test_a_query_may_not_fill_the_pair() -> None:
    assert RerankConfig(max_length=64, query_max_length=63).query_max_length == 63
    with pytest.raises(ConfigError, match=r"query_max_length must be less than max_length=64, not 64\."):
        RerankConfig(max_length=64, query_max_length=64)
    with pytest.raises(ConfigError, match="at least 8"):
        RerankConfig(max_length=7)


@pytest.mark.parametrize(
    "name, value",
    [
        ("quantization", "int2"),
        ("compress_ratio", 3),
        ("compress_layers", "8"),
        ("compress_layers", [True]),
        ("compress_layers", [8.5]),
        ("compress_layers", [0]),
        ("progressive", ()),
        ("progressive", 8),
        ("progressive", (8, 0.5)),
        ("progressive", ((8,),)),
        ("progressive", ((8, 1.0),)),
        ("progressive", ((8, 0),)),
        ("progressive", ((8, True),)),
        ("progressive", ((8, "half"),)),
        ("progressive", ((20, 0.5), (8, 0.25))),
        ("progressive", ((8, 0.5), (8, 0.25))),
        ("progressive", ((8, 0.25), (20, 0.5))),
        ("progressive", ((8, 0.5), (20, 0.5))),
        ("long_passages", "split"),
        ("family", "bert"),
        ("backend", "tensorflow"),
        ("special_tokens", "drop"),
        ("score_cache", -1),
        ("score_cache", False),
    ],
)
def test_what_will_never_be_an_option_is_not_called_not_yet(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be "):
        RerankConfig.from_dict({name: value})


@pytest.mark.parametrize("layer", [0, -1, 8.0, True, "8"])
def test_a_layer_of_a_progressive_ranking_is_a_whole_number(layer: object) -> None:
    with pytest.raises(ConfigError, match="layers of progressive must be a whole number of at least 1"):
        RerankConfig(progressive=((layer, 0.5),))  # type: ignore[arg-type]


def test_unknown_options_are_named_beside_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"Unknown option 'batch_size', 'topk'; the options are model, device,"):
        RerankConfig.from_dict({"topk": 3, "batch_size": 8})
    with pytest.raises(ConfigError, match="Unknown option 'topk'"):
        RerankConfig().replace(topk=3)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"model"', b"\xff", None, 5], ids=repr)
def test_what_is_no_json_object_is_refused(text: Any) -> None:
    with pytest.raises(ConfigError):
        RerankConfig.from_json(text)


@given(st.dictionaries(st.sampled_from([*VALID, "score_cache", "extra"]), st.none() | st.integers() | st.text()))
def test_any_mapping_gives_a_config_or_a_config_error(options: dict[str, Any]) -> None:
    try:
        config = RerankConfig.from_dict(options)
    except ConfigError:
        return  # the only error there may be
    assert RerankConfig.from_dict(config.to_dict()) == config
