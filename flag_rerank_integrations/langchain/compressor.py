"""Re-ranking as LangChain's document compressor."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from pydantic import field_validator
from typing_extensions import TypedDict, Unpack

from flag_rerank_integrations.errors import ConfigError, InputError
from flag_rerank_integrations.langchain.options import RerankerOptions, check_limit
from flag_rerank_integrations.langchain.tracing import RerankRun
from flag_rerank_integrations.option_types import WrapperOptions
from flag_rerank_integrations.plain_numbers import plain_number
from flag_rerank_integrations.results import RankedPassage
from flag_rerank_integrations.wrapping import check_reranker, copied_metadata

__all__ = ["FlagRerankCompressor", "RerankInput"]


class RerankInput(TypedDict):
    """What `FlagRerankCompressor.as_runnable()` takes."""

    query: str
    documents: Sequence[Document]


class CompressorFields(WrapperOptions, total=False):
    """What `FlagRerankCompressor` takes, as type checkers and editors read it."""

    top_n: int | None
    score_threshold: float | None
    score_key: str
    truncation_key: str | None


class FlagRerankCompressor(RerankerOptions, BaseDocumentCompressor):
    """Orders documents by the score a cross-encoder gives each with the query, best first.

    It returns copies: ids are kept, and neither the documents given nor their metadata are
    touched. Every call is a run of type retriever for `callbacks`, LangSmith among them.

    Args:
        top_n: Most documents to return; None is all.
        score_threshold: Least score of a document that is returned; it applies before `top_n`.
        score_key: Metadata key for the score, a float; a value already there is replaced.
        truncation_key: Metadata key for the number of tokens of the document that the model
            could not read; None writes none.
        **options: The options of `Reranker`, or `reranker=`: see `RerankerOptions`.

    Raises:
        ConfigError: A field has a wrong value.
    """

    top_n: int | None = None
    score_threshold: float | None = None
    score_key: str = "relevance_score"
    truncation_key: str | None = None

    if TYPE_CHECKING:  # more forms of an option are taken than its field keeps

        def __init__(self, **fields: Unpack[CompressorFields]) -> None: ...

    @field_validator("top_n", mode="before")
    @classmethod
    def _check_top_n(cls, value: object) -> object:
        return check_limit("top_n", value)

    @field_validator("score_threshold", mode="before")
    @classmethod
    def _check_threshold(cls, value: object) -> object:
        value = plain_number(value)
        # JSON has no word for infinities, and nothing is compared with them that None or top_n=0 does not say.
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        if value is not None and not number:
            msg = f"score_threshold must be a finite number or None, not {value!r}."
            raise ConfigError(msg)
        return value

    @field_validator("score_key", "truncation_key", mode="before")
    @classmethod
    def _check_key(cls, value: object, info: Any) -> object:  # noqa: ANN401 - pydantic's ValidationInfo
        optional = info.field_name == "truncation_key"
        if not (isinstance(value, str) and value) and not (optional and value is None):
            msg = f"{info.field_name} must be a non-empty string{' or None' if optional else ''}, not {value!r}."
            raise ConfigError(msg)
        return value

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks = None
    ) -> list[Document]:
        """Re-rank the documents of one query.

        Args:
            documents: The documents; none gives none, and loads no model.
            query: What they are ranked for.
            callbacks: Handlers that see the run; None takes those of the LCEL chain around it.

        Returns:
            Copies of the documents, best first; those with equal scores keep their order.

        Raises:
            InputError: The query or a document cannot be scored.
            RerankError: The model cannot be loaded or run; errors.py lists the kinds.
        """
        candidates = _as_documents(documents)
        with self._run(query, candidates, callbacks) as run:
            if candidates:
                ranking = self._reranker().rank(query, _texts(candidates), self.top_n, self.score_threshold)
                run.documents = self._ranked(candidates, ranking)
        return run.documents

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks = None
    ) -> list[Document]:
        """Re-rank as `compress_documents` does, without blocking the event loop, not even to load."""
        candidates = _as_documents(documents)
        async with self._run(query, candidates, callbacks) as run:
            if candidates:
                reranker = await self._areranker()
                ranking = await reranker.arank(query, _texts(candidates), self.top_n, self.score_threshold)
                run.documents = self._ranked(candidates, ranking)
        return run.documents

    def batch_compress(
        self, requests: Iterable[tuple[str, Sequence[Document]]], callbacks: Callbacks = None
    ) -> list[list[Document]]:
        """Re-rank the documents of many queries in one batch plan.

        Args:
            requests: (query, documents) pairs.
            callbacks: Handlers that see one run per query.

        Returns:
            A list per query, as `compress_documents` returns it.

        Raises:
            InputError: A query or a document cannot be scored.
            ConfigError: A shared reranker cannot rank many queries at once.
            RerankError: The model cannot be loaded or run.
        """
        work = _as_requests(requests)
        with ExitStack() as stack:
            runs = [stack.enter_context(self._run(query, found, callbacks)) for query, found in work]
            if any(found for _, found in work):
                reranker = self._reranker()
                check_reranker(reranker, ["rank_many"])
                rankings = reranker.rank_many(
                    [(query, _texts(found)) for query, found in work], self.top_n, self.score_threshold
                )
                for run, (_, found), ranking in zip(runs, work, rankings, strict=True):
                    run.documents = self._ranked(found, ranking)
        return [run.documents for run in runs]

    async def abatch_compress(
        self, requests: Iterable[tuple[str, Sequence[Document]]], callbacks: Callbacks = None
    ) -> list[list[Document]]:
        """Re-rank as `batch_compress` does, without blocking the event loop."""
        work = _as_requests(requests)
        async with AsyncExitStack() as stack:
            runs = [await stack.enter_async_context(self._run(query, found, callbacks)) for query, found in work]
            if any(found for _, found in work):
                reranker = await self._areranker()
                check_reranker(reranker, ["arank_many"])
                rankings = await reranker.arank_many(
                    [(query, _texts(found)) for query, found in work], self.top_n, self.score_threshold
                )
                for run, (_, found), ranking in zip(runs, work, rankings, strict=True):
                    run.documents = self._ranked(found, ranking)
        return [run.documents for run in runs]

    def as_runnable(self) -> Runnable[RerankInput, list[Document]]:
        """Return a step for LCEL: {"query": str, "documents": [Document, ...]} in, documents out.

        For example, `{"query": RunnablePassthrough(), "documents": retriever} | compressor.as_runnable()`
        takes a query. `invoke`, `batch`, `stream` and their async twins work as for any runnable, and
        the inputs of a batch, which run concurrently, share the model's batches.
        """

        def rerank(request: RerankInput, config: RunnableConfig) -> list[Document]:
            query, documents = _parts(request)
            return self.compress_documents(documents, query, config.get("callbacks"))

        async def arerank(request: RerankInput, config: RunnableConfig) -> list[Document]:
            query, documents = _parts(request)
            return await self.acompress_documents(documents, query, config.get("callbacks"))

        step = RunnableLambda(rerank, arerank, name="FlagRerank")
        return step.with_types(input_type=RerankInput, output_type=list[Document])

    def _run(self, query: str, candidates: list[Document], callbacks: Callbacks) -> RerankRun:
        facts = {
            "ls_retriever_name": "flag_rerank",
            **self._facts(),
            "candidates": len(candidates),
            "top_n": self.top_n,
            "score_threshold": self.score_threshold,
        }
        known = {name: value for name, value in facts.items() if value is not None}
        return RerankRun(type(self).__name__, query, callbacks, known)

    def _ranked(self, candidates: list[Document], ranking: Sequence[RankedPassage]) -> list[Document]:
        """Return copies of the documents in the ranking's order, each with its score."""
        documents = []
        for passage in ranking:
            document = candidates[passage.index]
            metadata = {**copied_metadata(document.metadata or {}), self.score_key: float(passage.score)}
            if self.truncation_key is not None:
                metadata[self.truncation_key] = passage.truncated_tokens
            documents.append(document.model_copy(update={"metadata": metadata}))
        return documents


def _texts(documents: Iterable[Document]) -> list[str]:
    return [document.page_content for document in documents]


def _as_documents(documents: object) -> list[Document]:
    if isinstance(documents, str | Document | Mapping | set) or not isinstance(documents, Iterable):
        msg = f"documents must be a sequence of Document objects, not {type(documents).__name__}."
        raise InputError(msg)
    found = list(documents)
    for position, document in enumerate(found):
        if not isinstance(document, Document):
            msg = f"documents[{position}] must be a Document, not {type(document).__name__}."
            raise InputError(msg)
    return found


def _as_requests(requests: Iterable[tuple[str, Sequence[Document]]]) -> list[tuple[str, list[Document]]]:
    if isinstance(requests, str | Mapping) or not isinstance(requests, Iterable):
        msg = f"requests must be a sequence of (query, documents) pairs, not {type(requests).__name__}."
        raise InputError(msg)
    work = []
    for position, request in enumerate(requests):
        if not isinstance(request, tuple | list) or len(request) != 2:  # noqa: PLR2004 - a pair
            msg = f"requests[{position}] must be a (query, documents) pair, not {type(request).__name__}."
            raise InputError(msg)
        work.append((request[0], _as_documents(request[1])))
    return work


def _parts(request: RerankInput) -> tuple[str, Sequence[Document]]:
    try:
        return request["query"], request["documents"]
    except (KeyError, TypeError) as error:
        msg = 'The re-ranking step takes {"query": str, "documents": [Document, ...]}.'
        raise InputError(msg) from error
