"""FlagRerankPostprocessor's fields: what is accepted, and what survives being stored and copied."""

from __future__ import annotations

import copy
import dataclasses
import json
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.schema import MetadataMode
from llama_index_tools import QUERY, TEXTS, nodes_of, through_json, through_pickle
from pydantic import ValidationError

from flag_rerank_integrations import RerankConfig, Reranker
from flag_rerank_integrations.config import DEFAULT_MAX_LENGTH
from flag_rerank_integrations.errors import ConfigError
from flag_rerank_integrations.llama_index import FlagRerankPostprocessor

OPTIONS = {option.name: option for option in dataclasses.fields(RerankConfig)}
LIVE = {"reranker", "callback_manager", "remote"}  # `remote` excludes the options; test_remote_wrappers.py has it

# A value other than the default for every field; the options that accept no other for now keep theirs.
OTHER: dict[str, Any] = {
    "top_n": 3,
    "score_threshold": -1.5,
    "score_key": "relevance_score",
    "metadata_mode": MetadataMode.LLM,
    "keep_retrieval_score": True,
    "model": "some/model",
    "device": ("cpu", "cuda:1"),
    "dtype": "float16",
    "max_length": 512,
    "query_max_length": 64,
    "max_batch_tokens": 4096,
    "normalize": True,
    "instruction": "Judge the passage.",
    "prompt": "Yes or no?",
    "family": "encoder",
    "backend": "torch",
    "quantization": None,
    "passage_instruction": "Passage: ",
    "cutoff_layer": 28,
    "progressive": ((8, 0.5), (20, 0.25)),
    "compress_ratio": 2,
    "compress_layers": (8, 16),
    "matched_head": True,
    "long_passages": "windows",
    "window_overlap": 0.4,
    "window_aggregation": "mean",
    "max_windows": 8,
    "revision": "main",
    "cache_dir": "cache",
    "local_files_only": True,
    "allow_pickle": True,
    "trust_remote_code": True,
    "special_tokens": "parse",
    "score_cache": 0,
    "progress": True,
    "timeout": 2.5,
    "ray": None,
}

# All of them but one: rankings that prune themselves read no windows.
TOGETHER = {**OTHER, "progressive": None}
# What a field says nothing without.
NEEDED = {field: {"long_passages": "windows"} for field in ("window_overlap", "window_aggregation", "max_windows")}


@pytest.fixture(scope="module")
def reranker(tiny: Any) -> Iterator[Reranker]:
    with Reranker(tiny("bert"), device="cpu", normalize=True) as live:
        yield live


def values(postprocessor: FlagRerankPostprocessor) -> dict[str, Any]:
    return {name: getattr(postprocessor, name) for name in type(postprocessor).model_fields if name not in LIVE}


def through_text(postprocessor: FlagRerankPostprocessor) -> FlagRerankPostprocessor:
    return FlagRerankPostprocessor.from_json(postprocessor.to_json())


def through_dump(postprocessor: FlagRerankPostprocessor) -> FlagRerankPostprocessor:
    return FlagRerankPostprocessor.model_validate(postprocessor.model_dump())


ways = pytest.mark.parametrize(
    "way", [through_json, through_text, through_pickle, through_dump, copy.copy, copy.deepcopy]
)


def test_every_option_is_a_field_of_the_same_type_and_default() -> None:
    fields = FlagRerankPostprocessor.model_fields
    ours, theirs = typing.get_type_hints(FlagRerankPostprocessor), typing.get_type_hints(RerankConfig)
    assert set(fields) - set(OPTIONS) == {
        *("reranker", "remote", "top_n", "score_threshold", "score_key", "metadata_mode", "keep_retrieval_score"),
        "callback_manager",
    }
    assert {name: fields[name].default for name in OPTIONS} == {name: o.default for name, o in OPTIONS.items()}
    assert {name: ours[name] for name in OPTIONS} == theirs
    assert FlagRerankPostprocessor().config == RerankConfig()


def test_the_test_values_cover_every_field() -> None:
    assert set(OTHER) == set(FlagRerankPostprocessor.model_fields) - LIVE


@ways
@pytest.mark.parametrize("field", [None, *OTHER])
def test_every_field_survives(way: Callable[[Any], FlagRerankPostprocessor], field: str | None) -> None:
    original = FlagRerankPostprocessor(**({} if field is None else {field: OTHER[field], **NEEDED.get(field, {})}))
    restored = way(original)
    assert values(restored) == values(original)
    assert restored.config == original.config
    assert restored.config.to_dict() == original.config.to_dict()


@ways
def test_all_fields_survive_together(way: Callable[[Any], FlagRerankPostprocessor]) -> None:
    restored = way(FlagRerankPostprocessor(**TOGETHER))
    assert values(restored) == TOGETHER
    assert restored.config == RerankConfig(**{name: TOGETHER[name] for name in OPTIONS})


def test_the_dict_is_plain_json_of_every_field() -> None:
    stored = FlagRerankPostprocessor(**TOGETHER).to_dict()
    plain = {"metadata_mode": "llm", "device": ["cpu", "cuda:1"], "compress_layers": [8, 16]}
    plain |= {"remote": None}
    assert stored == {**TOGETHER, **plain, "class_name": "FlagRerankPostprocessor"}
    assert {type(value) for value in stored.values()} == {str, int, float, bool, list, type(None)}
    assert FlagRerankPostprocessor.class_name() == "FlagRerankPostprocessor"
    # The default length adapts to the model, which no number says.
    assert set(FlagRerankPostprocessor().to_dict()) == set(stored) - {"max_length"}


def test_loose_forms_become_plain_values(tmp_path: Path) -> None:
    import torch

    postprocessor = FlagRerankPostprocessor(
        model=tmp_path, device=torch.device("cuda", 1), dtype=torch.float16, metadata_mode="none"
    )
    stored = json.loads(postprocessor.to_json())
    assert [stored[name] for name in ("model", "device", "dtype", "metadata_mode")] == [
        *(str(tmp_path), "cuda:1", "float16", "none"),
    ]
    assert FlagRerankPostprocessor(device=1).device == "cuda:1"


@ways
def test_the_default_length_still_adapts_after_a_round_trip(
    tiny: Any, way: Callable[[Any], FlagRerankPostprocessor]
) -> None:
    restored = way(FlagRerankPostprocessor(model=tiny("bert"), device="cpu"))  # a model of 256 positions
    assert len(restored.postprocess_nodes(nodes_of(TEXTS), query_str=QUERY)) == len(TEXTS)
    restored.close()


@ways
def test_the_default_length_named_outright_is_still_the_default(way: Callable[[Any], FlagRerankPostprocessor]) -> None:
    original = FlagRerankPostprocessor(max_length=DEFAULT_MAX_LENGTH)
    assert "max_length" not in original.config.to_dict()
    assert "max_length" not in through_pickle(way(original)).config.to_dict()


@ways
async def test_a_length_asked_for_does_not_adapt(tiny: Any, way: Callable[[Any], FlagRerankPostprocessor]) -> None:
    postprocessor = way(FlagRerankPostprocessor(model=tiny("bert"), device="cpu", max_length=int(DEFAULT_MAX_LENGTH)))
    assert postprocessor.config.to_dict()["max_length"] == DEFAULT_MAX_LENGTH
    with pytest.raises(ConfigError, match=r"1024.*256"):
        postprocessor.warm_up()
    with pytest.raises(ConfigError, match=r"1024.*256"):
        await postprocessor.apostprocess_nodes(nodes_of(TEXTS), query_str=QUERY)


def test_only_what_was_given_counts_as_set() -> None:
    postprocessor = FlagRerankPostprocessor(top_n=2, dtype="fp16")
    assert postprocessor.model_fields_set == copy.deepcopy(postprocessor).model_fields_set == {"top_n", "dtype"}


def test_from_dict_takes_changes_and_leaves_its_input_alone() -> None:
    stored = FlagRerankPostprocessor(top_n=3).to_dict()
    before = dict(stored)
    assert FlagRerankPostprocessor.from_dict(stored, top_n=4).top_n == 4
    assert stored == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_n": -1},
        {"top_n": 2.5},
        {"top_n": True},
        {"top_n": "3"},
        {"score_threshold": float("nan")},
        {"score_threshold": float("inf")},
        {"score_threshold": "0.5"},
        {"score_threshold": True},
        {"score_key": ""},
        {"score_key": 1},
        {"score_key": "retrieval_score"},
        {"metadata_mode": "some"},
        {"keep_retrieval_score": 1},
        {"model": ""},
        {"model": None},
        {"device": None},
        {"dtype": "float8"},
        {"max_length": 7},
        {"max_length": "512"},
        {"normalize": "yes"},
        {"timeout": 0},
    ],
    ids=str,
)
def test_a_wrong_value_is_named_when_the_postprocessor_is_made(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ConfigError, match=rf"{name}\b.*not {value!r}"):
        FlagRerankPostprocessor(**wrong)
    with pytest.raises(ValueError, match=name):
        FlagRerankPostprocessor.model_validate(wrong)


def test_a_field_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="topn"):
        FlagRerankPostprocessor(topn=3)
    with pytest.raises(ValidationError, match="topn"):
        FlagRerankPostprocessor.from_dict({"topn": 3, "class_name": "FlagRerankPostprocessor"})
    with pytest.raises(ValueError, match="topn"):
        FlagRerankPostprocessor().topn = 3
    with pytest.raises(ValidationError, match="class_name"):
        FlagRerankPostprocessor(class_name="SentenceTransformerRerank")


@pytest.mark.parametrize("options", [{"model": "quickstart"}, {"device": "cpu"}, {"max_length": 512, "dtype": "auto"}])
def test_a_shared_reranker_excludes_options(reranker: Reranker, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"leave out {', '.join(sorted(options))}"):
        FlagRerankPostprocessor(reranker=reranker, **options)


@pytest.mark.parametrize("wrong", ["a name", Reranker, RerankConfig(), 1])
def test_what_cannot_rank_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match="reranker must be a live Reranker"):
        FlagRerankPostprocessor(reranker=wrong)


@pytest.mark.parametrize("field", sorted({*OPTIONS, "reranker", "remote"}))
def test_fields_that_describe_the_model_are_fixed(field: str) -> None:
    postprocessor = FlagRerankPostprocessor()
    before = getattr(postprocessor, field)
    with pytest.raises(ConfigError, match=f"{field} is fixed"):
        setattr(postprocessor, field, OTHER.get(field))
    assert getattr(postprocessor, field) == before
