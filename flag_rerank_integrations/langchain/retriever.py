"""A retriever that re-ranks what another retriever finds."""

from __future__ import annotations

from typing import Any, ClassVar

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever, RetrieverLike
from pydantic import ConfigDict, ValidationError, field_validator

from flag_rerank_integrations.errors import ConfigError
from flag_rerank_integrations.langchain.compressor import FlagRerankCompressor
from flag_rerank_integrations.langchain.options import check_limit
from flag_rerank_integrations.wrapping import plain_error

__all__ = ["FlagRerankRetriever"]


class FlagRerankRetriever(BaseRetriever):
    """Asks a retriever for candidates, re-ranks them, and returns the best `k`.

    `k` and the compressor's `top_n` are both limits on what comes back: the smaller one counts.
    Neither changes how many candidates the base retriever fetches: let it fetch more than `k`.

    Args:
        base_retriever: Finds the candidates: a retriever, or any runnable from a query to documents.
        compressor: Re-ranks them: a document compressor that returns the best first. By default a
            `FlagRerankCompressor` of the other options.
        k: Most documents to return; None leaves it to the compressor. `invoke(query, k=3)` and its
            kin set it for one call; their other arguments go to the base retriever.
        **options: `tags`, `metadata` and `name` as for every retriever, and in place of
            `compressor` the fields of `FlagRerankCompressor`.

    Raises:
        ConfigError: A field has a wrong value, or options stand beside `compressor`.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        arbitrary_types_allowed=True, extra="forbid", validate_assignment=True
    )

    base_retriever: RetrieverLike
    compressor: BaseDocumentCompressor
    k: int | None = None

    def __init__(
        self,
        *,
        base_retriever: RetrieverLike,
        compressor: BaseDocumentCompressor | None = None,
        k: int | None = None,
        **options: Any,  # noqa: ANN401 - each field checks its own value
    ) -> None:
        own = {name: options.pop(name) for name in options.keys() & type(self).model_fields.keys()}
        if compressor is None:
            compressor = FlagRerankCompressor(**options)
        elif options:
            msg = f"compressor= brings its own options: leave it out, or leave out {', '.join(sorted(options))}."
            raise ConfigError(msg)
        try:
            super().__init__(base_retriever=base_retriever, compressor=compressor, k=k, **own)
        except ValidationError as error:
            raise plain_error(error) from None

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 - any field's value
        """Set a field.

        Raises:
            ConfigError: The value is wrong.
        """
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise plain_error(error) from None

    @field_validator("k", mode="before")
    @classmethod
    def _check_k(cls, value: object) -> object:
        return check_limit("k", value)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        **kwargs: Any,  # noqa: ANN401 - the base retriever's own arguments
    ) -> list[Document]:
        limit = self._limit(k)
        candidates = self.base_retriever.invoke(query, {"callbacks": run_manager.get_child()}, **kwargs)
        if not candidates:
            return []
        return list(self.compressor.compress_documents(candidates, query, run_manager.get_child()))[:limit]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        **kwargs: Any,  # noqa: ANN401 - as above
    ) -> list[Document]:
        limit = self._limit(k)
        candidates = await self.base_retriever.ainvoke(query, {"callbacks": run_manager.get_child()}, **kwargs)
        if not candidates:
            return []
        return list(await self.compressor.acompress_documents(candidates, query, run_manager.get_child()))[:limit]

    def _limit(self, k: int | None) -> int | None:
        return self.k if k is None else check_limit("k", k)
