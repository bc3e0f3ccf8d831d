"""The LangChain wrapper as type checkers read it. Checked by pyright in `.ci/run`, never run."""

from __future__ import annotations

from pathlib import Path

import torch
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnablePassthrough
from typing_extensions import assert_type

from flag_rerank_integrations import RemoteConfig, RerankConfig, Reranker
from flag_rerank_integrations.langchain import FlagCrossEncoder, FlagRerankCompressor, FlagRerankRetriever, RerankInput
from flag_rerank_integrations.reranker_source import RerankerLike


def making(live: Reranker) -> None:
    FlagRerankCompressor()
    FlagRerankCompressor(model="model", device=("cuda:0", "cuda:1"), top_n=5, score_threshold=0.5, normalize=True)
    FlagRerankCompressor(reranker=live, score_key="score", truncation_key=None)
    FlagRerankCompressor(remote={"url": "http://localhost:8080"})
    FlagRerankCompressor(model=Path("model"), device=["cuda:0", 2, torch.device("cpu")], dtype=torch.float16)
    FlagRerankCompressor(device=0, compress_layers=[8, 16], progressive=[(8, 0.5)], ray={"num_workers": 4})
    FlagCrossEncoder(model="model", device=["cuda:0", "cuda:2"], normalize=True)
    FlagCrossEncoder(top_n=5)  # pyright: ignore[reportCallIssue]
    FlagCrossEncoder(device=None)  # pyright: ignore[reportArgumentType]
    FlagRerankCompressor(device=1.5)  # pyright: ignore[reportArgumentType]
    FlagRerankCompressor(quantization="int2")  # pyright: ignore[reportArgumentType]
    FlagRerankCompressor(topn=5)  # pyright: ignore[reportCallIssue]
    FlagRerankCompressor(top_n="5")  # pyright: ignore[reportArgumentType]
    FlagRerankCompressor(max_length="long")  # pyright: ignore[reportArgumentType]
    FlagRerankCompressor("model")  # pyright: ignore[reportCallIssue]


def compressing(compressor: FlagRerankCompressor, documents: list[Document]) -> None:
    assert_type(compressor.compress_documents(documents, "query"), list[Document])
    assert_type(compressor.batch_compress([("query", documents)]), list[list[Document]])
    assert_type(compressor.top_n, int | None)
    assert_type(compressor.device, str | tuple[str, ...])
    assert_type(compressor.config, RerankConfig | RemoteConfig | None)
    assert_type(compressor.model_copy(update={"top_n": 3}), FlagRerankCompressor)
    assert_type(compressor.warm_up(), RerankerLike)
    compressor.compress_documents("query", documents)  # pyright: ignore[reportArgumentType]
    compressor.compress_documents(["passage"], "query")  # pyright: ignore[reportArgumentType]


async def compressing_later(compressor: FlagRerankCompressor, documents: list[Document]) -> None:
    assert_type(await compressor.acompress_documents(documents, "query"), list[Document])
    assert_type(await compressor.abatch_compress([("query", documents)]), list[list[Document]])


def chaining(compressor: FlagRerankCompressor, retriever: BaseRetriever) -> None:
    step = compressor.as_runnable()
    assert_type(step, Runnable[RerankInput, list[Document]])
    assert_type(step.invoke({"query": "query", "documents": []}), list[Document])
    step.invoke({"query": "query"})  # pyright: ignore[reportArgumentType]
    found = {"query": RunnablePassthrough[str](), "documents": retriever} | step
    assert_type(found.invoke("query"), list[Document])


def combining(compressor: FlagRerankCompressor, retriever: BaseRetriever) -> None:
    base: BaseDocumentCompressor = compressor
    ContextualCompressionRetriever(base_compressor=base, base_retriever=retriever)
    CrossEncoderReranker(model=FlagCrossEncoder(model="model"), top_n=3)
    reranked = FlagRerankRetriever(base_retriever=retriever, compressor=compressor, k=3)
    assert_type(reranked.invoke("query"), list[Document])
    FlagRerankRetriever(compressor=compressor)  # pyright: ignore[reportCallIssue]
    FlagRerankRetriever(base_retriever=retriever, k="3")  # pyright: ignore[reportArgumentType]


def scoring(encoder: FlagCrossEncoder) -> None:
    assert_type(encoder.score([("query", "passage")]), list[float])
    encoder.score(["query", "passage"])  # pyright: ignore[reportArgumentType]
