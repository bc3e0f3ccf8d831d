"""FlagRerankPostprocessor passes the conformance tests, with every switch on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from llama_index.core.postprocessor.types import BaseNodePostprocessor

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.llama_index import FlagRerankPostprocessor
from flag_rerank_integrations.testing import NodePostprocessorConformance


class TestFlagRerankPostprocessor(NodePostprocessorConformance):
    @pytest.fixture(autouse=True)
    def _shared(self, local: Reranker) -> None:
        self.reranker = local

    @property
    def postprocessor_class(self) -> type[BaseNodePostprocessor]:
        return FlagRerankPostprocessor

    @property
    def postprocessor_params(self) -> dict[str, Any]:
        return {"reranker": self.reranker}

    @property
    def score_threshold_param(self) -> str:
        return "score_threshold"

    def reference_scores(self, query: str, texts: Sequence[str]) -> list[float]:
        # The model reads the metadata that is not hidden from embedding models together with the text.
        return [self.reranker.score([(query, f"title: A city\n\n{text}")])[0] for text in texts]
