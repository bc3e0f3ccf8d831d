"""What LlamaIndex's two event systems are told of one re-ranking."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined] # re-exported unmarked
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.schema import NodeWithScore

__all__ = ["dispatcher", "reranking"]

dispatcher: Final = get_dispatcher("flag_rerank_integrations.llama_index")


@contextmanager
def reranking(
    callbacks: CallbackManager, query: str, nodes: list[NodeWithScore], top_n: int | None, model_name: str
) -> Iterator[list[NodeWithScore]]:
    """Tell of a start and, however the block ends, of an end.

    The block fills the list that it gets. After an error the end event has no nodes: the error itself is
    with the callback's end, and with the span, which the dispatcher drops. Events hold text and nodes
    alone: no model, and no exception, which handlers could not store.

    Args:
        callbacks: The callback manager.
        query: The query.
        nodes: The nodes to rank.
        top_n: Most nodes to return; None, told as the number of nodes, is all.
        model_name: What to call the model.
    """
    output: list[NodeWithScore] = []
    limit = len(nodes) if top_n is None else top_n
    payload: dict[str, Any] = {
        EventPayload.NODES: nodes,
        EventPayload.MODEL_NAME: model_name,
        EventPayload.QUERY_STR: query,
        EventPayload.TOP_K: limit,
    }
    dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=limit, model_name=model_name))
    try:
        with callbacks.event(CBEventType.RERANKING, payload=payload) as event:
            yield output
            event.on_end(payload={EventPayload.NODES: list(output)})
    finally:
        dispatcher.event(ReRankEndEvent(nodes=output))
