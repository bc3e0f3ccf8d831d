"""Tests of what LlamaIndex's two event systems are told of a re-ranking."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined] # re-exported unmarked
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.span import BaseSpan
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from pydantic import PrivateAttr

from flag_rerank_integrations.testing.conformance import Conformance

__all__ = ["EventTests"]


class _Unreadable(TextNode):
    """A node whose text cannot be had."""

    def get_content(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> str:
        msg = f"no text in mode {metadata_mode}"
        raise RuntimeError(msg)


class CallbackLog(BaseCallbackHandler):
    """Counts starts and ends of the callback manager's events."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.starts: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.kinds: set[CBEventType] = set()

    def on_event_start(self, event_type: CBEventType, *_: Any, event_id: str = "", **__: Any) -> str:  # noqa: ANN401
        """Count a start."""
        self.starts[event_id] += 1
        self.kinds.add(event_type)
        return event_id

    def on_event_end(self, *_: Any, event_id: str = "", **__: Any) -> None:  # noqa: ANN401 - the base class's
        """Count an end."""
        self.ends[event_id] += 1

    def start_trace(self, trace_id: str | None = None) -> None:
        """Nothing to count."""

    def end_trace(self, trace_id: str | None = None, trace_map: dict[str, list[str]] | None = None) -> None:
        """Nothing to count."""


class EventLog(BaseEventHandler):
    """Counts the dispatcher's events by name."""

    _names: Counter[str] = PrivateAttr(default_factory=Counter)

    @property
    def names(self) -> Counter[str]:
        """How often each event was sent."""
        return self._names

    def handle(self, event: BaseEvent, **_: Any) -> None:  # noqa: ANN401 - the base class's
        """Count an event."""
        self._names[event.class_name()] += 1


class SpanLog(BaseSpanHandler[BaseSpan]):
    """Knows which spans are open."""

    def new_span(self, id_: str, bound_args: inspect.BoundArguments, *_: Any, **__: Any) -> BaseSpan:  # noqa: ANN401, ARG002
        """Open a span."""
        return BaseSpan(id_=id_)

    def prepare_to_exit_span(self, id_: str, *_: Any, **__: Any) -> BaseSpan:  # noqa: ANN401 - the base class's
        """Close a span that ended."""
        return self.open_spans[id_]

    def prepare_to_drop_span(self, id_: str, *_: Any, **__: Any) -> BaseSpan:  # noqa: ANN401 - the base class's
        """Close a span that failed."""
        return self.open_spans[id_]


class Listener:
    """The three logs of one call or more."""

    def __init__(self) -> None:
        self.callbacks: CallbackLog = CallbackLog()
        self.events: EventLog = EventLog()
        self.spans: SpanLog = SpanLog()

    @property
    def saw_a_reranking(self) -> bool:
        """Whether one of the two event systems was told of a re-ranking."""
        return CBEventType.RERANKING in self.callbacks.kinds or self.events.names["ReRankStartEvent"] > 0

    def check(self, what: str) -> None:
        """Fail unless everything that was started has ended."""
        assert self.callbacks.starts == self.callbacks.ends, f"callback events are left open after {what}"
        names = self.events.names
        assert names["ReRankStartEvent"] == names["ReRankEndEvent"], f"dispatcher events after {what}: {dict(names)}"
        assert not self.spans.open_spans, f"spans are left open after {what}"

    @contextlib.contextmanager
    def listening(self, reranker: BaseNodePostprocessor) -> Iterator[None]:
        """Listen to a postprocessor's callback manager and to the root of all dispatchers."""
        root, before = get_dispatcher(), reranker.callback_manager
        reranker.callback_manager = CallbackManager([self.callbacks])
        root.add_event_handler(self.events)
        root.add_span_handler(self.spans)
        try:
            yield
        finally:
            reranker.callback_manager = before
            root.event_handlers.remove(self.events)
            root.span_handlers.remove(self.spans)


class EventTests(Conformance[BaseNodePostprocessor, NodeWithScore]):
    """Tracing tools pair starts with ends: one that never ends is a leak, and a hole in the trace."""

    def test_events_tell_of_the_call(self) -> None:
        """A call sends a RERANKING callback event or a ReRankStartEvent."""
        if not self.supports_tracing:
            pytest.skip("supports_tracing is False")
        assert self._heard(self.items(self.texts), QueryBundle(self.query)).saw_a_reranking

    def test_events_are_balanced(self) -> None:
        """Each start has its end."""
        self._heard(self.items(self.texts), QueryBundle(self.query)).check("a call")

    def test_events_are_balanced_without_nodes(self) -> None:
        """Each start has its end where there is nothing to rank."""
        self._heard([], QueryBundle(self.query)).check("a call with an empty list")

    def test_events_are_balanced_after_an_error(self) -> None:
        """Each start has its end though the call failed."""
        unreadable = [*self.items(self.texts), NodeWithScore(node=_Unreadable(text=""))]
        self._heard(unreadable, QueryBundle(self.query)).check("a node that cannot be read")
        self._heard(self.items(self.texts), QueryBundle(None)).check("a query that is no text")  # type: ignore[arg-type]

    def test_events_are_balanced_without_a_query(self) -> None:
        """Each start has its end though the query is missing."""
        self._heard(self.items(self.texts), None).check("a call without a query")

    def _heard(self, nodes: list[NodeWithScore], query: QueryBundle | None) -> Listener:
        """Call both methods, whatever becomes of it, and return what was told meanwhile."""
        reranker, listener = self.make(), Listener()
        with listener.listening(reranker):
            with contextlib.suppress(Exception):
                reranker.postprocess_nodes(nodes, query_bundle=query)
            with contextlib.suppress(Exception):
                asyncio.run(reranker.apostprocess_nodes(nodes, query_bundle=query))
        return listener
