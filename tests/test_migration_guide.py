"""docs/migration.md: code before and code after give the same, on a small model of bge-reranker's architecture."""

from __future__ import annotations

import inspect
import re

import guide_pages
import pytest
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from llama_index.core.postprocessor import SentenceTransformerRerank
from sentence_transformers import CrossEncoder
from tiny_models import TinyModels

from flag_rerank_integrations import RerankConfig

PAGE = "docs/migration.md"
TEXT = (guide_pages.ROOT / PAGE).read_text(encoding="utf-8")


def test_before_and_after_rank_alike(tiny: TinyModels, capsys: pytest.CaptureFixture[str]) -> None:
    replaced = {
        "BAAI/bge-reranker-v2-m3": tiny("xlm-roberta"),
        "max_length=512": "max_length=128",  # this model has so few positions, and all texts are short
        '"max_length": 512': '"max_length": 128',
        "normalize=True": 'normalize=True, dtype="float32"',  # as the others compute, on accelerators too
    }
    outputs = guide_pages.run(PAGE, capsys, replaced)
    _, before, after, langchain, compressor, cross_encoder, llama_index, postprocessor, last = outputs
    assert before == after != ""
    assert langchain == compressor == cross_encoder != ""
    assert llama_index == postprocessor != ""
    assert last == "2\n"


def test_what_stands_on_the_right_exists_here() -> None:
    options = set(inspect.signature(RerankConfig).parameters) | {"top_n", "metadata_mode", "score_key"}
    said = set(re.findall(r"^\|[^|]*\|[^|]*?`(\w+)=", TEXT, re.MULTILINE))
    assert said
    assert said <= options | {"keep_retrieval_score"}


@pytest.mark.parametrize(
    "peer, argument, default",
    [
        (CrossEncoder.predict, "batch_size", 32),
        (CrossEncoder.__init__, "max_length", None),
        (SentenceTransformerRerank.__init__, "top_n", 2),
        (SentenceTransformerRerank.__init__, "model", "cross-encoder/stsb-distilroberta-base"),
        (SentenceTransformerRerank.__init__, "trust_remote_code", True),
    ],
)
def test_the_peers_defaults_are_those_of_the_page(peer: object, argument: str, default: object) -> None:
    assert inspect.signature(inspect.unwrap(peer)).parameters[argument].default == default  # type: ignore[arg-type]


def test_langchain_keeps_three() -> None:
    assert CrossEncoderReranker.model_fields["top_n"].default == 3
