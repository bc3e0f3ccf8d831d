"""One re-ranking as a run that LangChain's handlers see: a start and exactly one end or error."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForRetrieverRun,
    CallbackManager,
    CallbackManagerForRetrieverRun,
    Callbacks,
)
from langchain_core.documents import Document
from langchain_core.runnables import RunnableConfig, ensure_config
from typing_extensions import Self

__all__ = ["RerankRun"]


class RerankRun:
    """A run of type retriever, open while a `with` or `async with` block runs.

    It ends with the `documents` set inside the block, or with the error that left it: an
    interrupt and a cancelled task included, so that no handler waits for an end for ever.

    Args:
        name: The run's name.
        query: The run's input.
        callbacks: Handlers or a manager as LangChain passes them; the run is a child of the
            manager's own run. None takes those of the surrounding LCEL chain, if there is one.
        metadata: Facts to show with this run.
    """

    def __init__(self, name: str, query: str, callbacks: Callbacks, metadata: dict[str, Any]) -> None:
        self._name = name
        self._query = query
        self._metadata = metadata
        # A runnable that is invoked without a config takes the surrounding one: so does this.
        self._config = ensure_config() if callbacks is None else RunnableConfig(callbacks=callbacks)
        self._run: CallbackManagerForRetrieverRun | None = None
        self._async_run: AsyncCallbackManagerForRetrieverRun | None = None
        self.documents: list[Document] = []

    def __enter__(self) -> Self:
        """Start the run."""
        manager = CallbackManager.configure(**self._surroundings())
        self._run = manager.on_retriever_start(None, self._query, name=self._name)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End the run."""
        if self._run is None:
            return
        if error is None:
            self._run.on_retriever_end(self.documents)
        else:
            self._run.on_retriever_error(error)

    async def __aenter__(self) -> Self:
        """Start the run; a caller that is cancelled meanwhile leaves an ended run behind."""
        manager = AsyncCallbackManager.configure(**self._surroundings())
        starting = asyncio.ensure_future(manager.on_retriever_start(None, self._query, name=self._name))
        try:
            self._async_run = await asyncio.shield(starting)
        except asyncio.CancelledError as error:
            await (await starting).on_retriever_error(error)
            raise
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End the run."""
        if self._async_run is None:
            return
        if error is None:
            await self._async_run.on_retriever_end(self.documents)
        else:
            await self._async_run.on_retriever_error(error)

    def _surroundings(self) -> dict[str, Any]:
        """Return what a callback manager is configured with."""
        return {
            "inheritable_callbacks": self._config.get("callbacks"),
            "inheritable_tags": self._config.get("tags"),
            "inheritable_metadata": self._config.get("metadata"),
            "local_metadata": self._metadata,
        }
