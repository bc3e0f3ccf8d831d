"""The two pipelines of the demo: the same first stage and the same live reranker in each framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from flag_rerank_integrations.demo.first_stage import FirstStage

if TYPE_CHECKING:
    from flag_rerank_integrations.reranker import Reranker

__all__ = ["PIPELINES", "Pipeline", "Ranked"]


class Ranked(NamedTuple):
    """One passage of a re-ranked list."""

    name: str
    score: float


Pipeline = Callable[[str], list[Ranked]]
"""Question in, re-ranked passages out, best first."""


def langchain(first_stage: FirstStage, reranker: Reranker, top_k: int) -> Pipeline:
    """Build `ContextualCompressionRetriever` with `FlagRerankCompressor`.

    Args:
        first_stage: What finds the candidates.
        reranker: The model, shared.
        top_k: Candidates per question.
    """
    from langchain_classic.retrievers.contextual_compression import ContextualCompressionRetriever
    from langchain_core.callbacks import CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever

    from flag_rerank_integrations.langchain import FlagRerankCompressor

    class Bm25Retriever(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
            del run_manager  # there is nothing to report while searching
            hits = first_stage.search(query, top_k)
            return [Document(id=hit.entry.name, page_content=hit.entry.text) for hit in hits]

    compressor = FlagRerankCompressor(reranker=reranker)
    retriever = ContextualCompressionRetriever(base_retriever=Bm25Retriever(), base_compressor=compressor)

    def ask(query: str) -> list[Ranked]:
        found = retriever.invoke(query)
        return [Ranked(str(document.id), document.metadata[compressor.score_key]) for document in found]

    return ask


def llama_index(first_stage: FirstStage, reranker: Reranker, top_k: int) -> Pipeline:
    """Build `RetrieverQueryEngine` with `FlagRerankPostprocessor`; the arguments are those of `langchain`."""
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.llms import MockLLM
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.response_synthesizers.no_text import NoText
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

    from flag_rerank_integrations.llama_index import FlagRerankPostprocessor

    class Bm25Retriever(BaseRetriever):
        def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
            hits = first_stage.search(query_bundle.query_str, top_k)
            return [
                NodeWithScore(node=TextNode(id_=hit.entry.name, text=hit.entry.text), score=hit.score) for hit in hits
            ]

    # Without an LLM object LlamaIndex looks for OpenAI's; this synthesizer never calls the one it has.
    synthesizer = NoText(llm=MockLLM())
    engine = RetrieverQueryEngine(
        retriever=Bm25Retriever(),
        response_synthesizer=synthesizer,
        node_postprocessors=[FlagRerankPostprocessor(reranker=reranker)],
    )

    def ask(query: str) -> list[Ranked]:
        found = engine.query(query).source_nodes
        return [Ranked(node.node_id, float(node.score or 0.0)) for node in found]

    return ask


PIPELINES: Final = {"LangChain": langchain, "LlamaIndex": llama_index}
