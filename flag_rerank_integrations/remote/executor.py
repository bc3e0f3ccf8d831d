"""Who computes: a server. One thread with an event loop of its own does the asking for all callers.

A connection pool belongs to one event loop. With a loop of its own, one pool serves threads and any
number of the callers' loops, a sync call works inside a running loop, and limits hold over all callers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

from flag_rerank_integrations.errors import ConfigError, MissingExtraError, RerankError, WorkerError, WorkerTimeout
from flag_rerank_integrations.executors.base import OnProgress
from flag_rerank_integrations.executors.request import Request, closed_error, forked_error
from flag_rerank_integrations.pairs import SCORE, Pair, ScoredPairs, Task
from flag_rerank_integrations.remote.config import RemoteConfig
from flag_rerank_integrations.remote.secret import Secret
from flag_rerank_integrations.results import RerankStats

if TYPE_CHECKING:
    from flag_rerank_integrations.remote.discovery import Endpoint
    from flag_rerank_integrations.remote.scorer import RemoteScorer

__all__ = ["RemoteExecutor"]

_STOP_SECONDS: Final = 10.0


class _Asker(threading.Thread):
    """Finds out what the server is, then asks it until told to stop.

    It knows nothing of the executor that started it, so that a forgotten executor can be
    collected, which stops the thread.
    """

    def __init__(self, config: RemoteConfig, key: Secret | None) -> None:
        super().__init__(name="flag-rerank remote", daemon=True)
        self._config, self._key = config, key
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving = self._loop.create_task(self._serve())
        self._stopping = False
        self._gate = threading.RLock()  # a finalizer may call `stop` at any point of this thread
        self.ready: Future[RemoteScorer] = Future()

    def submit(self, request: Request, deadline: float | None) -> None:
        """Start on a request.

        Raises:
            WorkerError: The thread was stopped.
        """
        with self._gate:  # nothing may slip in behind the stop
            if self._stopping:
                msg = "This RemoteReranker is closed."
                raise WorkerError(msg)
            self._loop.call_soon_threadsafe(self._begin, request, deadline)

    def stop(self) -> None:
        """Give up what is under way, and wait for the thread to end."""
        with self._gate:
            if not self._stopping:
                self._stopping = True
                self._loop.call_soon_threadsafe(self._serving.cancel)
        if self.is_alive() and threading.current_thread() is not self:
            self.join(_STOP_SECONDS)

    def run(self) -> None:
        """Be the thread."""
        # Neither asyncio.run nor a Runner: notebooks patch them to look for a loop that this thread does not have.
        asyncio.set_event_loop(self._loop)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._serving)
        finally:
            with self._gate:
                self._stopping = True
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _serve(self) -> None:
        """Keep the connections until cancelled; what is under way then is cancelled first."""
        from flag_rerank_integrations.remote.discovery import discover
        from flag_rerank_integrations.remote.scorer import RemoteScorer
        from flag_rerank_integrations.remote.transport import Transport

        try:
            async with Transport(self._config, self._key) as transport:
                endpoint = await self._in_time(discover(transport, self._config))
                self._scorer = RemoteScorer(transport, endpoint, self._config)
                self.ready.set_result(self._scorer)
                try:
                    await asyncio.Event().wait()
                finally:
                    for task in self._tasks:
                        task.cancel()
                    await asyncio.gather(*self._tasks, return_exceptions=True)
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for the start
            self.ready.set_exception(_as_ours(error, self._config.url))

    async def _in_time(self, discovering: Awaitable[Endpoint]) -> Endpoint:
        try:
            return await asyncio.wait_for(discovering, self._config.timeout)
        except asyncio.TimeoutError:
            msg = f"{self._config.url} did not tell what it is within timeout={self._config.timeout} seconds."
            raise WorkerTimeout(msg) from None

    def _begin(self, request: Request, deadline: float | None) -> None:
        task = self._loop.create_task(self._answer(request, deadline))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

        def drop(future: Future[ScoredPairs]) -> None:
            if future.cancelled():
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(task.cancel)

        request.future.add_done_callback(drop)

    async def _answer(self, request: Request, deadline: float | None) -> None:
        try:
            await self._scorer.score(request, deadline)
        except asyncio.CancelledError:
            request.fail(closed_error())
            raise
        except Exception as error:  # noqa: BLE001 - belongs to the caller; the thread serves on
            request.fail(_as_ours(error, self._config.url))


class RemoteExecutor:
    """Scores on a server.

    Args:
        config: Names the server.

    Raises:
        ConfigError: The extra `remote` or a key is missing, or the server cannot follow an option.
        WorkerError: It cannot be reached.
    """

    def __init__(self, config: RemoteConfig) -> None:
        _check_installed()
        self._timeout = config.timeout
        self._process = os.getpid()
        self._asker = _Asker(config, _key_of(config))
        self._asker.start()
        self._stop = weakref.finalize(self, self._asker.stop)
        try:
            self._scorer = self._asker.ready.result()
        except BaseException:
            self._stop()
            raise

    def submit(
        self, pairs: Sequence[Pair], on_progress: OnProgress | None = None, task: Task = SCORE
    ) -> Future[ScoredPairs]:
        """Start asking, from any thread, and return at once; cancelling the future gives up its requests.

        Raises:
            WorkerError: This executor is closed, or was started before this process was forked.
        """
        if os.getpid() != self._process:
            raise forked_error(self._process)
        request = Request(pairs, on_progress, task=task)
        if not pairs:
            request.report(0)
            return request.future
        self._asker.submit(request, None if self._timeout is None else time.monotonic() + self._timeout)
        return request.future

    def stats(self) -> RerankStats:
        """Return a snapshot of the work done."""
        return self._scorer.stats()

    def close(self) -> None:
        """Stop, fail what is under way with `WorkerError`, close the connections; safe twice."""
        self._stop()


def _check_installed() -> None:
    try:
        import httpx  # noqa: F401 - whether it is there is what matters
    except ModuleNotFoundError as error:
        if error.name != "httpx":
            raise
        msg = "RemoteReranker needs an HTTP client: pip install 'flag-rerank-integrations[remote]'"
        raise MissingExtraError(msg, name=error.name) from error


def _key_of(config: RemoteConfig) -> Secret | None:
    if config.api_key_env is None:
        return None if config.api_key is None else Secret.of(config.api_key, "api_key")
    value = os.environ.get(config.api_key_env)
    if not value:
        msg = f"api_key_env={config.api_key_env!r}: there is no such environment variable, or it is empty."
        raise ConfigError(msg)
    return Secret.of(value, f"The environment variable {config.api_key_env}")


def _as_ours(error: Exception, url: str) -> RerankError:
    """Return an error that is this package's own."""
    if isinstance(error, RerankError):
        return error
    ours = WorkerError(f"Asking {url} failed: {type(error).__name__}.")
    ours.__cause__ = error
    return ours
