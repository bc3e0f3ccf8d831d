"""Rerankers without a model, right in all respects: what the conformance tests must pass, and faults are put into."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import CallbackManager, Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from llama_index.core.callbacks import CBEventType
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

KEY = "relevance_score"
dispatcher = get_dispatcher(__name__)


def overlap(query: str, text: str) -> float:
    """How many words a query and a text share; the shorter of two texts wins."""
    return len(set(query.lower().split()) & set(text.lower().split())) + 1 / (1 + len(text))


class Ranking:
    """The part that both rerankers share, in steps small enough for a fault to replace one."""

    top_n: int | None
    score_threshold: float | None

    def text(self, item: Any) -> str:
        raise NotImplementedError

    def copied(self, item: Any, score: float) -> Any:
        raise NotImplementedError

    def score(self, query: str, text: str) -> float:
        return overlap(query, text)

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        return [self.score(query, text) for text in texts]

    def limit(self) -> int | None:
        return self.top_n

    def order(self, places: list[tuple[float, Any]]) -> list[tuple[float, Any]]:
        return sorted(places, key=lambda place: -place[0])

    def keeps(self, score: float) -> bool:
        return self.score_threshold is None or score >= self.score_threshold

    def rank(self, items: Sequence[Any], query: str) -> list[Any]:
        scores = self.scores(query, [self.text(item) for item in items])
        places = [(score, item) for score, item in zip(scores, items, strict=True) if self.keeps(score)]
        return [self.copied(item, score) for score, item in self.order(places)[: self.limit()]]


class Compressor(Ranking, BaseDocumentCompressor):
    """For LangChain."""

    top_n: int | None = None
    score_threshold: float | None = None

    def text(self, item: Document) -> str:
        return item.page_content

    def copied(self, item: Document, score: float) -> Document:
        return item.model_copy(update={"metadata": {**copy.deepcopy(item.metadata), KEY: score}})

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks = None
    ) -> Sequence[Document]:
        run = CallbackManager.configure(callbacks).on_retriever_start(None, query, name="overlap")
        try:
            found = self.rank(documents, query)
        except Exception as error:
            run.on_retriever_error(error)
            raise
        run.on_retriever_end(found)
        return found


class Postprocessor(Ranking, BaseNodePostprocessor):
    """For LlamaIndex."""

    top_n: int | None = None
    score_threshold: float | None = None

    def text(self, item: NodeWithScore) -> str:
        return item.node.get_content(MetadataMode.EMBED)

    def copied(self, item: NodeWithScore, score: float) -> NodeWithScore:
        return NodeWithScore.model_construct(node=copy.deepcopy(item.node), score=score)

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            msg = "Missing query bundle."
            raise ValueError(msg)
        found: list[NodeWithScore] = []
        query = query_bundle.query_str
        dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=self.top_n or 0, model_name="overlap"))
        try:
            with self.callback_manager.event(CBEventType.RERANKING):
                found = self.rank(nodes, query)
        finally:
            dispatcher.event(ReRankEndEvent(nodes=found))
        return found
