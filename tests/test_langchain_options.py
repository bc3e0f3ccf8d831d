"""The fields of LangChain's wrappers: checked once, told in JSON, copied whole."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_models import TinyModels

from flag_rerank_integrations import RerankConfig, Reranker
from flag_rerank_integrations.config import DEFAULT_MAX_LENGTH
from flag_rerank_integrations.errors import ConfigError, RerankError
from flag_rerank_integrations.langchain import FlagCrossEncoder, FlagRerankCompressor


@pytest.fixture(scope="module")
def live(tiny: TinyModels) -> Iterator[Reranker]:
    with Reranker(tiny("bert"), device="cpu", max_length=64) as reranker:
        yield reranker


def test_fields_are_the_options_of_the_config() -> None:
    hints, config_hints = get_type_hints(FlagRerankCompressor), get_type_hints(RerankConfig)
    for option in dataclasses.fields(RerankConfig):
        for wrapper in (FlagRerankCompressor, FlagCrossEncoder):
            assert wrapper.model_fields[option.name].default == option.default, option.name
        assert hints[option.name] == config_hints[option.name], option.name
    assert FlagRerankCompressor.model_fields["max_length"].default is DEFAULT_MAX_LENGTH
    own = FlagRerankCompressor.model_fields.keys() - {option.name for option in dataclasses.fields(RerankConfig)}
    assert own == {"reranker", "remote", "top_n", "score_threshold", "score_key", "truncation_key"}


def test_forms_are_settled_as_the_config_settles_them(tmp_path: Path) -> None:
    made = FlagRerankCompressor(model=tmp_path, device=1, dtype="fp16", compress_layers=[8])
    assert (made.model, made.device, made.dtype, made.compress_layers) == (str(tmp_path), "cuda:1", "float16", (8,))
    assert made.config == RerankConfig(model=str(tmp_path), device="cuda:1", dtype="float16")


def test_a_length_that_nobody_set_stays_adaptive() -> None:
    assert FlagRerankCompressor().config.max_length is DEFAULT_MAX_LENGTH
    assert FlagRerankCompressor(max_length=DEFAULT_MAX_LENGTH).config.max_length is DEFAULT_MAX_LENGTH
    assert FlagRerankCompressor(max_length=1024).config.max_length is not DEFAULT_MAX_LENGTH


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"max_length": "long"}, "max_length must be a whole number"),
        ({"normalize": "yes"}, "normalize must be True or False"),
        ({"query_max_length": 20, "max_length": 10}, "less than max_length=10"),
        ({"dtype": "float8"}, "dtype must be one of"),
        ({"device": None}, "device must be"),
        ({"top_n": -1}, "top_n must be a whole number"),
        ({"top_n": True}, "top_n must be a whole number"),
        ({"top_n": "3"}, "top_n must be a whole number"),
        ({"score_threshold": "high"}, "score_threshold must be a finite number"),
        ({"score_threshold": float("nan")}, "score_threshold must be a finite number"),
        ({"score_threshold": float("-inf")}, "score_threshold must be a finite number"),
        ({"score_threshold": 10**400}, "score_threshold must be a finite number"),
        ({"score_threshold": True}, "score_threshold must be a finite number"),
        ({"score_key": ""}, "score_key must be a non-empty string"),
        ({"score_key": None}, "score_key must be a non-empty string"),
        ({"truncation_key": 3}, "truncation_key must be a non-empty string or None"),
    ],
)
def test_a_wrong_value_is_one_plain_config_error(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        FlagRerankCompressor(**wrong)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, RerankError)
    with pytest.raises(ValidationError, match=told):  # where pydantic parses, its own error carries the message
        FlagRerankCompressor.model_validate(wrong)


def test_an_unknown_option_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="topn"):
        FlagRerankCompressor(topn=3)
    with pytest.raises(ValidationError, match="top_n"):
        FlagCrossEncoder(top_n=3)


@pytest.mark.parametrize("wrong", [3, "quickstart", Reranker, object()])
def test_what_cannot_rank_is_no_reranker(wrong: object) -> None:
    with pytest.raises(ConfigError, match="reranker must be a live Reranker or work like one"):
        FlagRerankCompressor(reranker=wrong)


def test_a_live_reranker_excludes_options_of_its_own(live: Reranker) -> None:
    with pytest.raises(ConfigError, match="leave out device, model"):
        FlagRerankCompressor(reranker=live, model="other", device="cpu")


def test_options_are_fixed_and_the_rest_is_checked_when_set(live: Reranker) -> None:
    compressor = FlagRerankCompressor(model="any")
    for name, value in [("model", "other"), ("device", "cpu"), ("reranker", live)]:
        with pytest.raises(ConfigError, match=f"{name} is fixed"):
            setattr(compressor, name, value)
    compressor.top_n = 2
    assert compressor.top_n == 2
    with pytest.raises(ConfigError, match="top_n must be"):
        compressor.top_n = -2
    assert compressor.top_n == 2


def test_the_representation_shows_what_was_chosen() -> None:
    assert repr(FlagRerankCompressor(model="any", top_n=3)) == "FlagRerankCompressor(model='any', top_n=3)"


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.text(min_size=1),
        "device": st.sampled_from(["cpu", "auto", 1, ["cuda:0", "cuda:1"]]),
        "max_length": st.integers(8, 4096),
        "normalize": st.booleans(),
        "prompt": st.none() | st.text(),
        "progressive": st.none() | st.just(((8, 0.5), (20, 0.25))),
        "timeout": st.none() | st.floats(0.1, 1e6),
        "top_n": st.none() | st.integers(0, 1000),
        "score_threshold": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "score_key": st.text(min_size=1),
        "truncation_key": st.none() | st.text(min_size=1),
    },
)


@settings(deadline=None)  # a busy machine is no fault
@given(SETTINGS)
def test_settings_survive_json_pickle_and_copies(chosen: dict[str, Any]) -> None:
    made = FlagRerankCompressor(**chosen)
    for back in (
        FlagRerankCompressor.model_validate_json(made.model_dump_json()),
        FlagRerankCompressor(**made.model_dump()),
        pickle.loads(pickle.dumps(made)),
        copy.deepcopy(made),
        copy.copy(made),
        made.model_copy(),
    ):
        assert back == made
        assert back.config == made.config
        assert (back.max_length is DEFAULT_MAX_LENGTH) == ("max_length" not in chosen)


def test_settings_that_differ_are_not_equal() -> None:
    made = FlagRerankCompressor(model="any", top_n=3)
    assert made != FlagRerankCompressor(model="any", top_n=4)
    assert made != FlagRerankCompressor(model="other", top_n=3)
    assert FlagRerankCompressor(model="any") != FlagCrossEncoder(model="any")
    assert made != "any"


def test_a_json_schema_describes_the_settings() -> None:
    properties = FlagRerankCompressor.model_json_schema()["properties"]
    assert properties.keys() == FlagRerankCompressor.model_fields.keys() - {"reranker"}


def test_a_shared_reranker_is_told_but_not_written(live: Reranker) -> None:
    compressor = FlagRerankCompressor(reranker=live, top_n=2)
    assert compressor.config is live.config
    assert (compressor.model, compressor.max_length) == (live.config.model, 64)
    read = FlagRerankCompressor.model_validate_json(compressor.model_dump_json())
    assert read.reranker is None
    assert read == compressor
