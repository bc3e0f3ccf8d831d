"""Handlers that write down what LlamaIndex tells of a re-ranking, and ways to run one."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest
from llama_index.core.callbacks import CBEventType
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.schema import NodeWithScore, TextNode
from pydantic import Field

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.llama_index import FlagRerankPostprocessor

QUERY = "How many people live in Berlin?"
TEXTS = [
    "New York City is famous for the Metropolitan Museum of Art, and for its bagels.",
    "Berlin has a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
    "The giant panda is a bear species endemic to China.",
    "Berlin is well known for its museums.",
    "Yes or No.",
]

both = pytest.mark.parametrize("mode", ["sync", "async"])


def ids(nodes: list[NodeWithScore]) -> list[str]:
    """The ids of nodes, in order."""
    return [node.node_id for node in nodes]


def best_first(reranker: Reranker, texts: list[str]) -> list[tuple[str, float]]:
    """Ids and scores by definition: each pair on its own, then a stable sort."""
    scores = [reranker.score([(QUERY, text)])[0] for text in texts]
    return sorted(((str(i), score) for i, score in enumerate(scores)), key=lambda place: -place[1])


def nodes_of(texts: Sequence[str], **options: Any) -> list[NodeWithScore]:
    """One scored node a text, ids "0", "1", ..., as a retriever might return them."""
    return [
        NodeWithScore(node=TextNode(id_=str(i), text=text, **options), score=1.0 - i / 100)
        for i, text in enumerate(texts)
    ]


async def rerank(
    postprocessor: FlagRerankPostprocessor, nodes: list[NodeWithScore], mode: str, query: str = QUERY
) -> list[NodeWithScore]:
    """Run a postprocessor by its sync or its async method."""
    if mode == "async":
        return await postprocessor.apostprocess_nodes(nodes, query_str=query)
    return postprocessor.postprocess_nodes(nodes, query_str=query)


def through_json(postprocessor: FlagRerankPostprocessor) -> FlagRerankPostprocessor:
    """Store a postprocessor as JSON, and build it again."""
    return FlagRerankPostprocessor.from_dict(json.loads(json.dumps(postprocessor.to_dict())))


def through_pickle(postprocessor: FlagRerankPostprocessor) -> FlagRerankPostprocessor:
    """Pickle a postprocessor, and build it again."""
    return cast("FlagRerankPostprocessor", pickle.loads(pickle.dumps(postprocessor)))


class EventLog(BaseEventHandler):
    """Keeps every event."""

    events: list[BaseEvent] = Field(default_factory=list)

    def handle(self, event: BaseEvent, **_: Any) -> None:
        self.events.append(event)

    def named(self, name: str) -> list[Any]:
        return [event for event in self.events if event.class_name() == name]


class CallbackLog(BaseCallbackHandler):
    """Keeps the starts and ends of re-rankings with their payloads."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.starts: dict[str, dict[str, Any]] = {}
        self.ends: dict[str, dict[str, Any]] = {}

    def on_event_start(self, event_type: CBEventType, payload: Any = None, event_id: str = "", **_: Any) -> str:  # type: ignore[override]
        if event_type is CBEventType.RERANKING:
            self.starts[event_id] = payload
        return event_id

    def on_event_end(self, event_type: CBEventType, payload: Any = None, event_id: str = "", **_: Any) -> None:  # type: ignore[override]
        if event_type is CBEventType.RERANKING:
            self.ends[event_id] = payload

    def start_trace(self, trace_id: str | None = None) -> None:
        pass

    def end_trace(self, trace_id: str | None = None, trace_map: Any = None) -> None:
        pass


@contextmanager
def listening() -> Iterator[tuple[EventLog, SimpleSpanHandler]]:
    """Attach an event log and a span handler to the root of all dispatchers for a while."""
    root = get_dispatcher()
    events, spans = EventLog(), SimpleSpanHandler()
    root.add_event_handler(events)
    root.add_span_handler(spans)
    try:
        yield events, spans
    finally:
        root.event_handlers.remove(events)
        root.span_handlers.remove(spans)
