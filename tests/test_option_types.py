"""The options that type checkers know are those that `RerankConfig` takes."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

from flag_rerank_integrations import config
from flag_rerank_integrations.langchain import FlagCrossEncoder, FlagRerankCompressor
from flag_rerank_integrations.langchain.compressor import CompressorFields
from flag_rerank_integrations.llama_index import FlagRerankPostprocessor
from flag_rerank_integrations.llama_index.options import PostprocessorFields
from flag_rerank_integrations.option_types import RerankOptions, WrapperOptions

HINTS = get_type_hints(RerankOptions, localns={"torch": torch})


def literals(hint: Any) -> set[object]:
    """The values that a type spells out; None where it allows None."""
    parts = (hint,) if get_origin(hint) is Literal else get_args(hint)
    return {value for part in parts for value in ((None,) if part is type(None) else get_args(part))}


def test_every_option_has_a_type() -> None:
    assert set(HINTS) == {option.name for option in dataclasses.fields(config.RerankConfig)} - {"model"}
    assert not RerankOptions.__required_keys__


@pytest.mark.parametrize("name", sorted(set(config._CHOICES) - {"dtype"}))  # dtype also takes short forms
def test_the_types_spell_out_the_choices(name: str) -> None:
    assert literals(HINTS[name]) == set(config._CHOICES[name])


@pytest.mark.parametrize(
    "fields, wrapper",
    [
        (CompressorFields, FlagRerankCompressor),
        (WrapperOptions, FlagCrossEncoder),
        (PostprocessorFields, FlagRerankPostprocessor),
    ],
)
def test_every_field_of_a_wrapper_has_a_type(fields: Any, wrapper: Any) -> None:
    assert set(wrapper.model_fields) == fields.__optional_keys__
    assert not fields.__required_keys__
