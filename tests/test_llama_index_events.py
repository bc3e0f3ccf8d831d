"""What LlamaIndex's event handlers, callback handlers and span handlers see of a re-ranking."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index_tools import QUERY, TEXTS, CallbackLog, EventLog, listening, nodes_of, rerank

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import ModelLoadError, WorkerError
from flag_rerank_integrations.llama_index import FlagRerankPostprocessor

NOWHERE = "/no/such/model"
METHODS = {"sync": "_postprocess_nodes", "async": "_apostprocess_nodes"}
both = pytest.mark.parametrize("mode", ["sync", "async"])


@pytest.fixture(scope="module")
def reranker(tiny: Any) -> Iterator[Reranker]:
    with Reranker(tiny("bert"), device="cpu") as live:
        yield live


@pytest.fixture
def heard() -> Iterator[tuple[EventLog, SimpleSpanHandler]]:
    with listening() as logs:
        yield logs


@pytest.fixture
def callbacks() -> CallbackLog:
    return CallbackLog()


def own_spans(spans: list[Any]) -> list[str]:
    """Names of the postprocessor's spans, without their random part."""
    return [span.id_.split("-")[0] for span in spans if span.id_.startswith("FlagRerankPostprocessor")]


@both
async def test_success_is_told_once_in_full(
    reranker: Reranker, heard: tuple[EventLog, SimpleSpanHandler], callbacks: CallbackLog, mode: str
) -> None:
    events, spans = heard
    postprocessor = FlagRerankPostprocessor(reranker=reranker, top_n=2, callback_manager=CallbackManager([callbacks]))
    nodes = nodes_of(TEXTS)
    output = await rerank(postprocessor, nodes, mode)

    (start,), (end,) = events.named("ReRankStartEvent"), events.named("ReRankEndEvent")
    assert (start.query, start.top_n, start.model_name) == (QUERY, 2, reranker.config.model)
    assert [item.node_id for item in start.nodes] == [item.node_id for item in nodes]
    assert end.nodes == output
    assert events.events.index(start) < events.events.index(end)

    assert own_spans(spans.completed_spans) == [f"FlagRerankPostprocessor.{METHODS[mode]}"]
    assert start.span_id == end.span_id == spans.completed_spans[0].id_
    assert (spans.open_spans, spans.dropped_spans) == ({}, [])

    ((event_id, before),) = callbacks.starts.items()
    assert before == {
        EventPayload.NODES: nodes,
        EventPayload.MODEL_NAME: reranker.config.model,
        EventPayload.QUERY_STR: QUERY,
        EventPayload.TOP_K: 2,
    }
    assert callbacks.ends == {event_id: {EventPayload.NODES: output}}


@both
@pytest.mark.parametrize("top_n, told", [(None, 5), (0, 0), (3, 3), (99, 99)])
async def test_the_limit_told_is_a_number(
    reranker: Reranker, heard: tuple[EventLog, SimpleSpanHandler], mode: str, top_n: int | None, told: int
) -> None:
    await rerank(FlagRerankPostprocessor(reranker=reranker, top_n=top_n), nodes_of(TEXTS), mode)
    assert [event.top_n for event in heard[0].named("ReRankStartEvent")] == [told]


@both
async def test_an_empty_list_is_told_and_balanced(
    heard: tuple[EventLog, SimpleSpanHandler], callbacks: CallbackLog, mode: str
) -> None:
    events, spans = heard
    manager = CallbackManager([callbacks])
    assert await rerank(FlagRerankPostprocessor(model=NOWHERE, callback_manager=manager), [], mode) == []
    (start,), (end,) = events.named("ReRankStartEvent"), events.named("ReRankEndEvent")
    assert (start.nodes, start.top_n, end.nodes) == ([], 0, [])
    assert callbacks.starts.keys() == callbacks.ends.keys()
    assert len(callbacks.starts) == 1
    assert own_spans(spans.completed_spans) == [f"FlagRerankPostprocessor.{METHODS[mode]}"]


def closed(reranker: Reranker) -> Reranker:
    copied = Reranker.from_config(reranker.config, start=False)
    copied.close()
    return copied


@both
@pytest.mark.parametrize("failure", ["loading", "scoring"])
async def test_an_error_is_told_and_balanced(
    reranker: Reranker, heard: tuple[EventLog, SimpleSpanHandler], callbacks: CallbackLog, mode: str, failure: str
) -> None:
    events, spans = heard
    options: dict[str, Any] = {"model": NOWHERE} if failure == "loading" else {"reranker": closed(reranker)}
    postprocessor = FlagRerankPostprocessor(callback_manager=CallbackManager([callbacks]), **options)
    with pytest.raises((ModelLoadError, WorkerError)) as caught:
        await rerank(postprocessor, nodes_of(TEXTS), mode)

    (start,), (end,) = events.named("ReRankStartEvent"), events.named("ReRankEndEvent")
    assert (len(start.nodes), end.nodes) == (len(TEXTS), [])
    ((event_id, payload),) = callbacks.ends.items()
    assert list(callbacks.starts) == [event_id]
    assert payload == {EventPayload.EXCEPTION: caught.value}
    assert (spans.open_spans, own_spans(spans.completed_spans)) == ({}, [])
    assert own_spans(spans.dropped_spans) == [f"FlagRerankPostprocessor.{METHODS[mode]}"]
    (dropped,) = [event for event in events.named("SpanDropEvent") if event.span_id == start.span_id]
    assert dropped.err_str == str(caught.value)


@both
async def test_a_missing_query_drops_the_span_and_starts_nothing(
    heard: tuple[EventLog, SimpleSpanHandler], callbacks: CallbackLog, mode: str
) -> None:
    events, spans = heard
    postprocessor = FlagRerankPostprocessor(callback_manager=CallbackManager([callbacks]))
    if mode == "async":
        with pytest.raises(ValueError, match="Missing query bundle"):
            await postprocessor.apostprocess_nodes([])
    else:
        with pytest.raises(ValueError, match="Missing query bundle"):
            postprocessor.postprocess_nodes([])
    assert events.named("ReRankStartEvent") == events.named("ReRankEndEvent") == []
    assert callbacks.starts == callbacks.ends == {}
    assert own_spans(spans.dropped_spans) == [f"FlagRerankPostprocessor.{METHODS[mode]}"]


async def test_a_cancelled_call_is_balanced_and_spoils_nothing(
    tiny: Any, heard: tuple[EventLog, SimpleSpanHandler], callbacks: CallbackLog
) -> None:
    events, spans = heard
    postprocessor = FlagRerankPostprocessor(
        model=tiny("bert"), device="cpu", callback_manager=CallbackManager([callbacks])
    )
    task = asyncio.create_task(postprocessor.apostprocess_nodes(nodes_of(TEXTS), query_str=QUERY))
    await asyncio.sleep(0)
    assert len(events.named("ReRankStartEvent")) == 1
    task.cancel()  # while the model loads
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [len(event.nodes) for event in events.named("ReRankEndEvent")] == [0]
    assert callbacks.starts.keys() == callbacks.ends.keys()
    assert spans.open_spans == {}
    assert own_spans(spans.dropped_spans) == ["FlagRerankPostprocessor._apostprocess_nodes"]

    output = await postprocessor.apostprocess_nodes(nodes_of(TEXTS), query_str=QUERY)
    assert len(output) == len(TEXTS)
    assert len(events.named("ReRankStartEvent")) == len(events.named("ReRankEndEvent")) == 2
    postprocessor.close()


async def test_a_failing_callback_handler_leaves_no_event_open(
    reranker: Reranker, heard: tuple[EventLog, SimpleSpanHandler]
) -> None:
    class Failing(CallbackLog):
        def on_event_start(self, event_type: CBEventType, *args: Any, **kwargs: Any) -> str:
            raise RuntimeError(event_type)

    postprocessor = FlagRerankPostprocessor(reranker=reranker, callback_manager=CallbackManager([Failing()]))
    with pytest.raises(RuntimeError, match="RERANKING"):
        postprocessor.postprocess_nodes(nodes_of(TEXTS), query_str=QUERY)
    with pytest.raises(RuntimeError, match="RERANKING"):
        await postprocessor.apostprocess_nodes(nodes_of(TEXTS), query_str=QUERY)
    assert len(heard[0].named("ReRankStartEvent")) == len(heard[0].named("ReRankEndEvent")) == 2


@both
async def test_events_can_be_stored_as_json(
    reranker: Reranker, heard: tuple[EventLog, SimpleSpanHandler], mode: str
) -> None:
    await rerank(FlagRerankPostprocessor(reranker=reranker), nodes_of(TEXTS), mode)
    with pytest.raises(WorkerError):
        await rerank(FlagRerankPostprocessor(reranker=closed(reranker)), nodes_of(TEXTS), mode)
    stored = [json.loads(event.model_dump_json()) for event in heard[0].events]
    assert [len(event["nodes"]) for event in stored if "nodes" in event] == [5, 5, 5, 0]


async def test_a_reranker_without_a_config_is_named_by_its_class(
    reranker: Reranker, heard: tuple[EventLog, SimpleSpanHandler]
) -> None:
    class Remote:
        rank, arank = reranker.rank, reranker.arank

    await FlagRerankPostprocessor(reranker=Remote()).apostprocess_nodes(nodes_of(TEXTS), query_str=QUERY)
    assert [event.model_name for event in heard[0].named("ReRankStartEvent")] == ["Remote"]


async def test_many_calls_at_once_stay_balanced(
    reranker: Reranker, heard: tuple[EventLog, SimpleSpanHandler], callbacks: CallbackLog
) -> None:
    events, spans = heard
    postprocessor = FlagRerankPostprocessor(reranker=reranker, callback_manager=CallbackManager([callbacks]))

    async def call(number: int) -> list[NodeWithScore]:
        nodes = [NodeWithScore(node=TextNode(text=f"passage {number} {i}")) for i in range(3)]
        return await rerank(postprocessor, nodes, "async")

    await asyncio.gather(*map(call, range(32)))
    starts, ends = events.named("ReRankStartEvent"), events.named("ReRankEndEvent")
    assert sorted(event.span_id for event in starts) == sorted(event.span_id for event in ends)
    assert len({event.span_id for event in starts}) == len(own_spans(spans.completed_spans)) == 32
    assert callbacks.starts.keys() == callbacks.ends.keys()
    assert len(callbacks.starts) == 32
