"""The life of a reranker: made from its options, started when needed, asked for its figures, closed, copied."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from flag_rerank_integrations.call_options import CallOptions
from flag_rerank_integrations.errors import WorkerError
from flag_rerank_integrations.inputs import checked_config
from flag_rerank_integrations.monitoring.calls import Calls
from flag_rerank_integrations.results import RerankStats

if TYPE_CHECKING:
    from typing_extensions import Self

    from flag_rerank_integrations.executors import Executor

__all__ = ["Lifetime", "Options"]

Options = TypeVar("Options", bound=CallOptions)


class Lifetime(ABC, Generic[Options]):
    """Holds the options and, from its start until it is closed, the executor, which a subclass launches.

    It may be used from many threads and event loops at once. Pickling and copying carry the options only;
    the copy starts when it is first used.
    """

    _options_type: ClassVar[type[Any]]
    _started_word: ClassVar[str] = "loaded"

    def _init(self, config: Options) -> None:
        self._config = config
        self._executor: Executor | None = None
        self._closing: Executor | None = None
        self._closed = False
        self._calls = Calls(config.model)
        self._device_names = ""
        self._last_figures = RerankStats()
        self._start_seconds = 0.0
        self._lock = threading.Lock()

    @classmethod
    def from_config(cls, config: Options | Mapping[str, Any] | str | os.PathLike[str], *, start: bool = True) -> Self:
        """Make a reranker from its options.

        Args:
            config: All options, as an object of the config's class; or those that differ from the defaults, as a
                dict, as JSON text, or as the path of a JSON file such as `flag-rerank bench` writes.
            start: Whether to start now (load the model, or ask the server), or when it is first used.

        Raises:
            RerankError: As the constructor; `ConfigError` also where a file cannot be read.
        """
        self = cls.__new__(cls)
        self._init(checked_config(config, cls._options_type))
        if start:
            self.start()
        return self

    @property
    def config(self) -> Options:
        """The options this reranker was made with."""
        return self._config

    def start(self) -> None:
        """Load the model, or ask the server, unless that is done; other threads that need it wait.

        Raises:
            RerankError: As the constructor; or `WorkerError` after `close`.
        """
        self._started()

    def stats(self) -> RerankStats:
        """Return figures about all work done so far: zeros before the start, and what was counted after `close`."""
        executor = self._executor or self._closing
        return self._calls.added_to(self._last_figures if executor is None else self._figures(executor))

    def close(self) -> None:
        """Free what the start took; calls still running end with `WorkerError`. Safe twice."""
        with self._lock:
            executor, self._closed = self._executor, True
            if executor is not None:
                self._closing = executor  # `stats` asks it until its last figures are in
                self._executor = None
        if executor is not None:
            executor.close()
            self._last_figures = replace(self._figures(executor), devices=(), waiting_calls=0)
            self._closing = None

    def __enter__(self) -> Self:
        """Start, unless that is done."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    async def __aenter__(self) -> Self:
        """Start off the event loop, unless that is done."""
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close off the event loop."""
        await asyncio.to_thread(self.close)

    def __getstate__(self) -> Options:
        """Carry the options only: threads, weights, devices and connections stay where they are."""
        return self._config

    def __setstate__(self, config: Options) -> None:
        """Come back with the same options; it starts at first use."""
        self._init(config)

    def __repr__(self) -> str:
        """Name the model, where it runs, and the state."""
        word = self._started_word
        state = "closed" if self._closed else word if self._executor is not None else f"not {word}"
        return f"<{type(self).__name__} {self._place()}, {state}>"

    @abstractmethod
    def _launch(self) -> Executor:
        """Start what computes."""

    @abstractmethod
    def _place(self) -> str:
        """Name the model and where it runs."""

    def _started(self) -> Executor:
        executor = self._executor
        if executor is not None:
            return executor
        with self._lock:
            if self._closed:
                msg = f"This {type(self).__name__} is closed."
                raise WorkerError(msg)
            if self._executor is None:
                begin = time.perf_counter()
                self._executor = self._launch()
                self._start_seconds = time.perf_counter() - begin
            return self._executor

    def _figures(self, executor: Executor) -> RerankStats:
        stats = executor.stats()
        load_seconds = {**stats.load_seconds, "total": self._start_seconds}
        return replace(stats, load_seconds=load_seconds, model=self._config.model or "")

    def _devices(self) -> str:
        """Name the devices for whoever traces calls."""
        executor = self._executor
        if executor is not None and not self._device_names:
            self._device_names = ", ".join(device.name for device in executor.stats().devices)
        return self._device_names
