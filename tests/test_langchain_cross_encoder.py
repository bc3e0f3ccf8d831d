"""FlagCrossEncoder: scores through LangChain's cross-encoder interface."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_parts import POPULATION, QUERY, TEXTS, ListRetriever, documents
from tiny_models import TinyModels

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import ConfigError, InputError
from flag_rerank_integrations.langchain import FlagCrossEncoder

PAIRS = [(QUERY, text) for text in TEXTS]


@pytest.fixture(scope="module")
def live() -> Iterator[Reranker]:
    with Reranker("quickstart", device="cpu") as reranker:
        yield reranker


async def test_scores_are_the_rerankers_in_order(live: Reranker) -> None:
    model = FlagCrossEncoder(reranker=live)
    assert isinstance(model, BaseCrossEncoder)
    scores = model.score(PAIRS)
    assert scores == live.score(PAIRS)
    assert all(type(score) is float for score in scores)
    assert scores.index(max(scores)) == TEXTS.index(POPULATION)
    assert await model.ascore(PAIRS) == scores


async def test_no_pairs_are_no_scores_and_load_no_model() -> None:
    model = FlagCrossEncoder(model="no/such-model", device="cpu", local_files_only=True)
    assert model.score([]) == []
    assert await model.ascore([]) == []


async def test_it_loads_its_own_model_once_at_first_use(tiny: TinyModels) -> None:
    model = FlagCrossEncoder(model=tiny("bert"), device="cpu", normalize=True)
    answers = await asyncio.gather(*[model.ascore(PAIRS) for _ in range(8)])
    assert all(0 < score < 1 for score in answers[0])
    assert all(answer == pytest.approx(model.score(PAIRS), abs=1e-5) for answer in answers)
    assert pickle.loads(pickle.dumps(model)) == model
    model.close()


@pytest.mark.parametrize("wrong", [[QUERY], [(QUERY,)], [(QUERY, None)], [(QUERY, "a", "b")]])
def test_what_is_no_pair_of_texts_is_refused(live: Reranker, wrong: Any) -> None:
    with pytest.raises(InputError):
        FlagCrossEncoder(reranker=live).score(wrong)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_length"):
        FlagCrossEncoder(max_length=-1)


async def test_it_serves_langchains_cross_encoder_reranker(live: Reranker) -> None:
    retriever = ContextualCompressionRetriever(
        base_compressor=CrossEncoderReranker(model=FlagCrossEncoder(reranker=live), top_n=2),
        base_retriever=ListRetriever(found=documents()),
    )
    found = retriever.invoke(QUERY)
    assert [document.metadata["row"] for document in found] == [passage.index for passage in live.rank(QUERY, TEXTS, 2)]
    assert await retriever.ainvoke(QUERY) == found
