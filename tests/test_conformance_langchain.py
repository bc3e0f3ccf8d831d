"""FlagRerankCompressor passes the conformance tests, with every switch on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.documents import BaseDocumentCompressor

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.langchain import FlagRerankCompressor
from flag_rerank_integrations.testing import DocumentCompressorConformance


class TestFlagRerankCompressor(DocumentCompressorConformance):
    @pytest.fixture(autouse=True)
    def _shared(self, local: Reranker) -> None:
        self.reranker = local

    @property
    def compressor_class(self) -> type[BaseDocumentCompressor]:
        return FlagRerankCompressor

    @property
    def compressor_params(self) -> dict[str, Any]:
        return {"reranker": self.reranker}

    @property
    def score_threshold_param(self) -> str:
        return "score_threshold"

    def reference_scores(self, query: str, texts: Sequence[str]) -> list[float]:
        return [self.reranker.score([(query, text)])[0] for text in texts]
