"""Conformance tests for LangChain document compressors that re-rank."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import BaseDocumentCompressor, Document

from flag_rerank_integrations.testing.concurrency import ConcurrencyTests
from flag_rerank_integrations.testing.copies import CopyTests
from flag_rerank_integrations.testing.passages import PassageTests
from flag_rerank_integrations.testing.rankings import RankingTests
from flag_rerank_integrations.testing.storing import StoringTests

__all__ = ["DocumentCompressorConformance"]


class _RunLog(BaseCallbackHandler):
    """Counts the starts and the ends of runs of every kind."""

    def __init__(self) -> None:
        self.starts: Counter[UUID] = Counter()
        self.ends: Counter[UUID] = Counter()

    @property
    def balanced(self) -> bool:
        """Whether each run has one start and one end."""
        return self.starts == self.ends and set(self.starts.values()) <= {1}

    def _start(self, *_: Any, run_id: UUID, **__: Any) -> None:  # noqa: ANN401 - what the handlers of each kind get
        self.starts[run_id] += 1

    def _end(self, *_: Any, run_id: UUID, **__: Any) -> None:  # noqa: ANN401 - likewise
        self.ends[run_id] += 1

    on_chain_start = on_retriever_start = on_tool_start = on_llm_start = on_chat_model_start = _start
    on_chain_end = on_retriever_end = on_tool_end = on_llm_end = _end
    on_chain_error = on_retriever_error = on_tool_error = on_llm_error = _end


class DocumentCompressorConformance(
    RankingTests[BaseDocumentCompressor, Document],
    CopyTests[BaseDocumentCompressor, Document],
    PassageTests[BaseDocumentCompressor, Document],
    ConcurrencyTests[BaseDocumentCompressor, Document],
    StoringTests[BaseDocumentCompressor, Document],
):
    """What users of a `BaseDocumentCompressor` that re-ranks may rely on.

    For example::

        class TestMine(DocumentCompressorConformance):
            @property
            def compressor_class(self) -> type[BaseDocumentCompressor]:
                return MyReranker

            @property
            def compressor_params(self) -> dict[str, Any]:
                return {"model": "path/to/a/small/model"}
    """

    @property
    @abstractmethod
    def compressor_class(self) -> type[BaseDocumentCompressor]:
        """The class under test."""

    @property
    def compressor_params(self) -> dict[str, Any]:
        """What it is made with, beside the parameters that the tests set."""
        return {}

    @property
    def score_key(self) -> str | None:
        """Metadata key of the score; None: documents come back without their scores."""
        return "relevance_score"

    @property
    def shows_scores(self) -> bool:
        """Whether what comes out carries its score."""
        return self.score_key is not None

    def build(self, **changes: Any) -> BaseDocumentCompressor:  # noqa: ANN401 - any parameter's value
        """Return a new compressor."""
        return self.compressor_class(**{**self.compressor_params, **changes})

    def items(self, texts: Sequence[str]) -> list[Document]:
        """Return new documents with ids and nested metadata."""
        return [
            Document(text, id=f"id-{row}", metadata={"row": row, "source": {"path": ["corpus", f"{row}.txt"]}})
            for row, text in enumerate(texts)
        ]

    def call(self, reranker: BaseDocumentCompressor, items: list[Document], query: str) -> Sequence[Document]:
        """Call `compress_documents`."""
        return reranker.compress_documents(items, query)

    async def acall(self, reranker: BaseDocumentCompressor, items: list[Document], query: str) -> Sequence[Document]:
        """Call `acompress_documents`."""
        return await reranker.acompress_documents(items, query)

    def id_of(self, item: Document) -> str | None:
        """Return a document's id."""
        return item.id

    def text_of(self, item: Document) -> str:
        """Return a document's text."""
        return item.page_content

    def score_of(self, item: Document) -> Any:  # noqa: ANN401 - what kind of number it is, is under test
        """Return the score among a document's metadata."""
        return None if self.score_key is None else item.metadata.get(self.score_key)

    def metadata_of(self, item: Document) -> dict[str, Any]:
        """Return a document's own metadata."""
        return item.metadata

    def state_of(self, item: Document) -> dict[str, Any]:
        """Return all fields of a document."""
        return copy.deepcopy(item.model_dump())

    def set_score(self, item: Document, score: float) -> None:
        """Write a score where the compressor writes its own, if it does."""
        if self.score_key is not None:
            item.metadata[self.score_key] = score

    def json_of(self, item: Document) -> str:
        """Return a document's fields as JSON."""
        return json.dumps(item.model_dump())

    def through_json(self, reranker: BaseDocumentCompressor) -> BaseDocumentCompressor:
        """Store a compressor by pydantic's `model_dump_json`, and build another from it."""
        return type(reranker).model_validate_json(reranker.model_dump_json())

    def unreadable(self) -> list[Document]:
        """Return a document that holds no text, which no compressor can score."""
        return [Document.model_construct(page_content=None, metadata={}, type="Document")]  # type: ignore[arg-type]

    def test_results_are_documents(self) -> None:
        """Both methods return documents."""
        for found in self.both_ways(self.make(), self.items(self.texts)):
            assert all(isinstance(document, Document) for document in found)

    def test_callbacks_see_the_call(self) -> None:
        """Handlers that are passed to a call are told of a run, so that it shows in a trace."""
        self._needs_tracing()
        for log in self._traced(self.items(self.texts)):
            assert log.starts

    def test_callbacks_are_balanced(self) -> None:
        """Each run that starts ends, once; with an empty list as well."""
        for items in (self.items(self.texts), []):
            for log in self._traced(items):
                assert log.balanced, f"starts {log.starts}, ends {log.ends}"

    def test_callbacks_are_balanced_after_an_error(self) -> None:
        """A run that fails ends, once: a handler may hold resources until then."""
        for log in self._traced(self.unreadable()):
            assert log.balanced, f"starts {log.starts}, ends {log.ends}"

    def _traced(self, items: list[Document]) -> list[_RunLog]:
        """Call both methods, whatever becomes of it, and return what the handlers of each saw."""
        reranker, logs = self.make(), [_RunLog(), _RunLog()]
        with contextlib.suppress(Exception):
            reranker.compress_documents(items, self.query, callbacks=[logs[0]])
        with contextlib.suppress(Exception):
            asyncio.run(reranker.acompress_documents(items, self.query, callbacks=[logs[1]]))
        return logs

    def _needs_tracing(self) -> None:
        if not self.supports_tracing:
            pytest.skip("supports_tracing is False")
