"""FlagRerankPostprocessor in real LlamaIndex pipelines, with a real trained model, alone and 32 calls at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.evaluation import RetrieverEvaluator
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever, QueryFusionRetriever
from llama_index.core.schema import NodeRelationship, NodeWithScore, QueryBundle, RelatedNodeInfo, TextNode
from llama_index.core.tools import RetrieverTool
from llama_index.core.workflow import Event, StartEvent, StopEvent, Workflow, step
from llama_index_tools import listening, rerank

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.llama_index import FlagRerankPostprocessor

ANSWERS = {
    "How many people live in Berlin?": "Berlin has a population of 3,520,031 registered inhabitants.",
    "What do giant pandas eat?": "The giant panda's diet is over 99% bamboo shoots and leaves.",
    "Who wrote the Iliad?": "The Iliad is an ancient Greek epic poem attributed to Homer.",
    "How hot is the surface of the Sun?": "The Sun's photosphere has a temperature of about 5,800 kelvin.",
    "When did the Berlin Wall fall?": "The Berlin Wall was opened on the night of 9 November 1989.",
    "What is the capital of Australia?": "Canberra, not Sydney, is the seat of Australia's government and its capital.",
    "How do bees make honey?": "Bees turn nectar into honey by regurgitating it and letting its water evaporate.",
    "Why is the sky blue?": "Air molecules scatter short wavelengths of sunlight more, so the sky looks blue.",
}
QUESTIONS, TEXTS = list(ANSWERS), list(ANSWERS.values())
both = pytest.mark.parametrize("mode", ["sync", "async"])


@pytest.fixture(scope="module")
def reranker() -> Iterator[Reranker]:
    with Reranker("quickstart") as live:
        yield live


@pytest.fixture(scope="module")
def retriever() -> BaseRetriever:
    """Mock embeddings are all equal: what comes first is chance, so the order is the re-ranker's doing."""
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="encyclopedia")}
    nodes = [TextNode(id_=str(i), text=text, relationships=source) for i, text in enumerate(TEXTS)]
    index = VectorStoreIndex(nodes, embed_model=MockEmbedding(embed_dim=8))
    return index.as_retriever(similarity_top_k=len(TEXTS))


def passages(count: int = len(TEXTS)) -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(id_=str(i), text=text), score=0.5) for i, text in enumerate(TEXTS[:count])]


def places(nodes: list[NodeWithScore]) -> list[tuple[str, float | None]]:
    return [(item.node_id, item.score) for item in nodes]


def expected(reranker: Reranker, query: str, top_n: int | None = None) -> list[tuple[str, float]]:
    return [(str(place.index), place.score) for place in reranker.rank(query, TEXTS, top_n)]


def one_by_one(reranker: Reranker) -> dict[str, list[tuple[str, float]]]:
    """The first four passages in order for every question, one call after the other."""
    return {query: [place for place in expected(reranker, query) if int(place[0]) < 4] for query in QUESTIONS}


@pytest.mark.parametrize("query", QUESTIONS)
@both
async def test_the_passage_that_answers_comes_first(reranker: Reranker, mode: str, query: str) -> None:
    (best,) = await rerank(FlagRerankPostprocessor(reranker=reranker, top_n=1), passages(), mode, query)
    assert best.node.get_content() == ANSWERS[query]


@both
async def test_a_query_engine_answers_from_the_best_passages(
    reranker: Reranker, retriever: BaseRetriever, mode: str
) -> None:
    postprocessor = FlagRerankPostprocessor(reranker=reranker, top_n=2, keep_retrieval_score=True)
    engine = RetrieverQueryEngine.from_args(retriever, llm=MockLLM(), node_postprocessors=[postprocessor])
    with listening() as (events, spans):
        response = await engine.aquery(QUESTIONS[0]) if mode == "async" else engine.query(QUESTIONS[0])
    assert places(response.source_nodes) == expected(reranker, QUESTIONS[0], top_n=2)
    assert [item.node.ref_doc_id for item in response.source_nodes] == ["encyclopedia"] * 2
    assert all(item.metadata["retrieval_score"] == pytest.approx(1.0) for item in response.source_nodes)
    prompt = str(response)  # the mock LLM repeats what it was asked
    assert ANSWERS[QUESTIONS[0]] in prompt
    assert "retrieval_score" not in prompt
    assert len(events.named("ReRankStartEvent")) == len(events.named("ReRankEndEvent")) == 1
    # The span hangs below the engine's own.
    (own,) = [span for span in spans.completed_spans if span.id_.startswith("FlagRerankPostprocessor")]
    assert own.parent_id is not None
    assert own.parent_id.startswith("RetrieverQueryEngine")


@both
async def test_an_engine_retrieves_in_the_rerankers_order(
    reranker: Reranker, retriever: BaseRetriever, mode: str
) -> None:
    engine = RetrieverQueryEngine.from_args(
        retriever,
        llm=MockLLM(),
        node_postprocessors=[
            SimilarityPostprocessor(similarity_cutoff=0.1),
            FlagRerankPostprocessor(reranker=reranker),
            SimilarityPostprocessor(similarity_cutoff=0.0),
        ],
    )
    bundle = QueryBundle(QUESTIONS[4])
    nodes = await engine.aretrieve(bundle) if mode == "async" else engine.retrieve(bundle)
    assert places(nodes) == [(i, score) for i, score in expected(reranker, QUESTIONS[4]) if score >= 0.0]


@both
async def test_a_retriever_tool_hands_out_the_best(reranker: Reranker, retriever: BaseRetriever, mode: str) -> None:
    postprocessors = [FlagRerankPostprocessor(reranker=reranker, top_n=1)]
    tool = RetrieverTool.from_defaults(retriever, node_postprocessors=postprocessors)
    output = await tool.acall(QUESTIONS[1]) if mode == "async" else tool.call(QUESTIONS[1])
    assert output.content.strip() == ANSWERS[QUESTIONS[1]]


@both
async def test_it_follows_a_fusion_of_retrievers(reranker: Reranker, retriever: BaseRetriever, mode: str) -> None:
    fusion = QueryFusionRetriever([retriever, retriever], llm=MockLLM(), num_queries=1, similarity_top_k=8)
    nodes = await fusion.aretrieve(QUESTIONS[2]) if mode == "async" else fusion.retrieve(QUESTIONS[2])
    output = await rerank(FlagRerankPostprocessor(reranker=reranker), nodes, mode, QUESTIONS[2])
    assert sorted(places(output)) == sorted(expected(reranker, QUESTIONS[2]))


async def test_llama_indexs_evaluator_finds_every_answer_first(reranker: Reranker, retriever: BaseRetriever) -> None:
    evaluator = RetrieverEvaluator.from_metric_names(
        ["mrr", "hit_rate"],
        retriever=retriever,
        node_postprocessors=[FlagRerankPostprocessor(reranker=reranker, top_n=1)],
    )
    for number, query in enumerate(QUESTIONS):
        result = await evaluator.aevaluate(query, expected_ids=[str(number)])
        assert result.metric_vals_dict == {"mrr": 1.0, "hit_rate": 1.0}


async def test_it_is_a_step_of_a_workflow(reranker: Reranker, retriever: BaseRetriever) -> None:
    class Retrieved(Event):
        query: str
        nodes: list[NodeWithScore]

    class Search(Workflow):
        postprocessor = FlagRerankPostprocessor(reranker=reranker, top_n=1)

        @step
        async def retrieve(self, event: StartEvent) -> Retrieved:
            return Retrieved(query=event.query, nodes=await retriever.aretrieve(event.query))

        @step
        async def rerank(self, event: Retrieved) -> StopEvent:
            return StopEvent(result=await self.postprocessor.apostprocess_nodes(event.nodes, query_str=event.query))

    runs = [Search(timeout=60).run(query=query) for query in QUESTIONS]
    results = await asyncio.gather(*runs)
    assert [[item.node.get_content() for item in result] for result in results] == [[text] for text in TEXTS]


def test_32_threads_get_their_own_scores(reranker: Reranker) -> None:
    calls = [QUESTIONS[number % len(QUESTIONS)] for number in range(32)]
    wanted = one_by_one(reranker)
    postprocessor = FlagRerankPostprocessor(model="quickstart")  # the first calls wait for one load
    with ThreadPoolExecutor(len(calls)) as pool:
        outputs = list(pool.map(lambda query: postprocessor.postprocess_nodes(passages(4), query_str=query), calls))
    postprocessor.close()
    wrong = [query for query, output in zip(calls, outputs, strict=True) if places(output) != wanted[query]]
    assert wrong == []


async def test_32_tasks_get_their_own_scores_and_leave_the_loop_free(reranker: Reranker) -> None:
    calls = [QUESTIONS[number % len(QUESTIONS)] for number in range(32)]
    wanted = one_by_one(reranker)
    postprocessor = FlagRerankPostprocessor(model="quickstart")
    tasks = [asyncio.create_task(postprocessor.apostprocess_nodes(passages(4), query_str=query)) for query in calls]
    await asyncio.sleep(0)  # every task has started, and yet the loop is back here
    assert postprocessor._source._loading is not None
    assert postprocessor._source._loading.running()
    outputs = await asyncio.gather(*tasks)
    postprocessor.close()
    wrong = [query for query, output in zip(calls, outputs, strict=True) if places(output) != wanted[query]]
    assert wrong == []


async def test_threads_tasks_and_postprocessors_share_one_model(reranker: Reranker) -> None:
    wanted = one_by_one(reranker)
    before = reranker.stats().pairs
    postprocessors = [FlagRerankPostprocessor(reranker=reranker, top_n=top_n) for top_n in (None, 1, 3, 5)]

    async def call(number: int) -> bool:
        query, postprocessor = QUESTIONS[number % 8], postprocessors[number % 4]
        if number < 16:
            output = await postprocessor.apostprocess_nodes(passages(4), query_str=query)
        else:
            output = await asyncio.to_thread(postprocessor.postprocess_nodes, passages(4), None, query)
        return places(output) == wanted[query][: postprocessor.top_n]

    assert await asyncio.gather(*map(call, range(32))) == [True] * 32
    assert reranker.stats().pairs == before + 32 * 4


async def test_cancelled_tasks_leave_the_others_their_scores(reranker: Reranker) -> None:
    wanted = one_by_one(reranker)
    postprocessor = FlagRerankPostprocessor(reranker=reranker)
    tasks = [
        asyncio.create_task(postprocessor.apostprocess_nodes(passages(4), query_str=QUESTIONS[number % 8]))
        for number in range(32)
    ]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    outputs = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(output, asyncio.CancelledError) for output in outputs[::2])
    kept = list(enumerate(outputs))[1::2]
    wrong = [n for n, output in kept if isinstance(output, BaseException) or places(output) != wanted[QUESTIONS[n % 8]]]
    assert wrong == []
