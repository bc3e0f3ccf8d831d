"""Known integrations under the conformance tests, all with one small model; see conformance.py, which runs this file.

What an integration does not claim to do is switched off. Nothing is marked as an expected failure.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from flag_rerank_integrations.testing import DocumentCompressorConformance, NodePostprocessorConformance

MODEL = os.environ["CONFORMANCE_MODEL"]
FLASHRANK = {"model_name": "ms-marco-TinyBERT-L-2-v2", "cache_dir": os.environ["CONFORMANCE_FLASHRANK"]}


@cache
def hugging_face_cross_encoder() -> Any:  # noqa: ANN401 - from an optional package
    """Return LangChain's cross-encoder, loaded once: its users hand it over, loaded, as well."""
    from langchain_community.cross_encoders import HuggingFaceCrossEncoder

    return HuggingFaceCrossEncoder(model_name=MODEL, model_kwargs={"device": "cpu"})


class TestFlagRerankCompressor(DocumentCompressorConformance):
    """This package, for LangChain."""

    score_threshold_param = "score_threshold"

    @property
    def compressor_class(self) -> Any:  # noqa: ANN401, D102
        from flag_rerank_integrations.langchain import FlagRerankCompressor

        return FlagRerankCompressor

    @property
    def compressor_params(self) -> dict[str, Any]:  # noqa: D102
        return {"model": MODEL, "device": "cpu"}


class TestCrossEncoderReranker(DocumentCompressorConformance):
    """langchain_classic, with the cross-encoder of langchain_community.

    It holds a model that the caller loaded, writes no scores and starts no run of its own.
    """

    score_key = None
    supports_unlimited = False
    supports_json = False
    supports_tracing = False

    @property
    def compressor_class(self) -> Any:  # noqa: ANN401, D102
        from langchain_classic.retrievers.document_compressors import CrossEncoderReranker

        return CrossEncoderReranker

    @property
    def compressor_params(self) -> dict[str, Any]:  # noqa: D102
        return {"model": hugging_face_cross_encoder()}

    def reference_scores(self, query: str, texts: Sequence[str]) -> list[float]:  # noqa: D102
        return [float(score) for score in hugging_face_cross_encoder().score([(query, text) for text in texts])]


class TestFlashrankRerank(DocumentCompressorConformance):
    """langchain_community, with FlashRank. It holds a live client, and starts no run of its own."""

    score_threshold_param = "score_threshold"
    supports_unlimited = False
    supports_json = False
    supports_tracing = False

    @property
    def compressor_class(self) -> Any:  # noqa: ANN401, D102
        from langchain_community.document_compressors import FlashrankRerank

        return FlashrankRerank

    @property
    def compressor_params(self) -> dict[str, Any]:  # noqa: D102
        from flashrank import Ranker

        return {"client": Ranker(**FLASHRANK)}


class TestFlagRerankPostprocessor(NodePostprocessorConformance):
    """This package, for LlamaIndex."""

    score_threshold_param = "score_threshold"

    @property
    def postprocessor_class(self) -> Any:  # noqa: ANN401, D102
        from flag_rerank_integrations.llama_index import FlagRerankPostprocessor

        return FlagRerankPostprocessor

    @property
    def postprocessor_params(self) -> dict[str, Any]:  # noqa: D102
        return {"model": MODEL, "device": "cpu"}


class TestSentenceTransformerRerank(NodePostprocessorConformance):
    """llama_index.core."""

    supports_unlimited = False

    @property
    def postprocessor_class(self) -> Any:  # noqa: ANN401, D102
        from llama_index.core.postprocessor import SentenceTransformerRerank

        return SentenceTransformerRerank

    @property
    def postprocessor_params(self) -> dict[str, Any]:  # noqa: D102
        return {"model": MODEL, "device": "cpu"}


class TestFlagEmbeddingReranker(NodePostprocessorConformance):
    """llama-index-postprocessor-flag-embedding-reranker, with FlagEmbedding."""

    supports_unlimited = False

    @property
    def postprocessor_class(self) -> Any:  # noqa: ANN401, D102
        from llama_index.postprocessor.flag_embedding_reranker import FlagEmbeddingReranker

        return FlagEmbeddingReranker

    @property
    def postprocessor_params(self) -> dict[str, Any]:  # noqa: D102
        return {"model": MODEL}


class TestFlashRankRerank(NodePostprocessorConformance):
    """llama-index-postprocessor-flashrank-rerank, with FlashRank."""

    supports_unlimited = False

    @pytest.fixture(autouse=True)
    def _local_files(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let FlashRank find its files where they are: the postprocessor has no parameter for that."""
        from flashrank import Ranker

        signature = ("ms-marco-TinyBERT-L-2-v2", FLASHRANK["cache_dir"], 512, "INFO")
        monkeypatch.setattr(Ranker.__init__, "__defaults__", signature)

    @property
    def postprocessor_class(self) -> Any:  # noqa: ANN401, D102
        from llama_index.postprocessor.flashrank_rerank import FlashRankRerank

        return FlashRankRerank

    @property
    def postprocessor_params(self) -> dict[str, Any]:  # noqa: D102
        return {"model": Path(FLASHRANK["model_name"]).name}
