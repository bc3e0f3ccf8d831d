"""Parts of LangChain pipelines for tests: a corpus, retrievers over it, and a handler that takes notes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

QUERY = "How many people live in Berlin?"
POPULATION = "Berlin has a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers."
MUSEUMS = "Berlin is well known for its museums."
NEW_YORK = "New York City is famous for the Metropolitan Museum of Art."
TEXTS = [
    NEW_YORK,
    MUSEUMS,
    "The giant panda is a bear species endemic to China.",
    POPULATION,
    "Yes or No: a bagel in the morning beats nothing at all.",
]


def documents(texts: list[str] | None = None) -> list[Document]:
    """Documents with ids and nested metadata."""
    return [
        Document(text, id=f"id-{i}", metadata={"row": i, "source": {"path": ["corpus", f"{i}.txt"]}})
        for i, text in enumerate(TEXTS if texts is None else texts)
    ]


class ListRetriever(BaseRetriever):
    """Finds the first `fetch` documents of a list, whatever the query."""

    found: list[Document]
    fetch: int | None = None

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        return self.found[: self.fetch]


class OverlapRetriever(BaseRetriever):
    """Finds the documents that share most words with the query."""

    corpus: list[Document]
    fetch: int = 4

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        words = set(query.lower().strip("?").split())
        by_overlap = sorted(self.corpus, key=lambda doc: -len(words & set(doc.page_content.lower().split())))
        return by_overlap[: self.fetch]


@dataclass(frozen=True)
class Note:
    """One event that a handler saw."""

    kind: str
    run_id: UUID
    parent_run_id: UUID | None
    name: str | None = None
    payload: Any = None
    metadata: dict[str, Any] | None = None
    tags: tuple[str, ...] = ()


class Notes:
    """What a handler saw, and what follows from it."""

    def __init__(self) -> None:
        self.all: list[Note] = []

    def of(self, kind: str, name: str | None = None) -> list[Note]:
        """The notes of one kind; with a name, those of runs with that name."""
        runs = {note.run_id for note in self.all if note.kind == "start" and name in (None, note.name)}
        return [note for note in self.all if note.kind == kind and note.run_id in runs]

    @property
    def unbalanced(self) -> list[UUID]:
        """Runs that have not exactly one start followed by exactly one end or error."""
        kinds: dict[UUID, list[str]] = {}
        for note in self.all:
            kinds.setdefault(note.run_id, []).append(note.kind)
        return [run for run, seen in kinds.items() if seen not in (["start", "end"], ["start", "error"])]


class Recorder(BaseCallbackHandler):
    """Notes retriever events, from any thread."""

    def __init__(self) -> None:
        self.notes = Notes()
        self._lock = threading.Lock()

    def on_retriever_start(self, serialized: Any, query: str, *, run_id: UUID, **facts: Any) -> None:
        self._note(
            "start", run_id, facts, name=facts.get("name"), payload=query, metadata=facts.get("metadata"),
            tags=tuple(facts.get("tags") or ()),
        )  # fmt: skip

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **facts: Any) -> None:
        self._note("end", run_id, facts, payload=list(documents))

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **facts: Any) -> None:
        self._note("error", run_id, facts, payload=error)

    def _note(self, kind: str, run_id: UUID, facts: dict[str, Any], **rest: Any) -> None:
        with self._lock:
            self.notes.all.append(Note(kind, run_id, facts.get("parent_run_id"), **rest))


class GatedRecorder(AsyncCallbackHandler):
    """Notes retriever events; it says when a start has arrived, and holds it until the gate opens."""

    def __init__(self, *, is_open: bool) -> None:
        self.notes = Notes()
        self.arrived = asyncio.Event()
        self.gate = asyncio.Event()
        if is_open:
            self.gate.set()

    async def on_retriever_start(self, serialized: Any, query: str, *, run_id: UUID, **facts: Any) -> None:
        self.arrived.set()
        await self.gate.wait()
        self.notes.all.append(Note("start", run_id, facts.get("parent_run_id"), name=facts.get("name")))

    async def on_retriever_end(self, documents: Any, *, run_id: UUID, **facts: Any) -> None:
        self.notes.all.append(Note("end", run_id, facts.get("parent_run_id"), payload=list(documents)))

    async def on_retriever_error(self, error: BaseException, *, run_id: UUID, **facts: Any) -> None:
        self.notes.all.append(Note("error", run_id, facts.get("parent_run_id"), payload=error))


async def until(happened: Callable[[], bool]) -> None:
    """Let the event loop run until something has happened that has no event of its own."""
    while not happened():  # noqa: ASYNC110 - a thread that starts, or a note taken, sets no asyncio.Event
        await asyncio.sleep(0)
