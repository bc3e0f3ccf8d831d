"""One HTTP exchange with a server: repeated where that helps, and every failure told in this package's errors."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from flag_rerank_integrations.errors import ConfigError, InputError, RerankError, WorkerDied, WorkerError
from flag_rerank_integrations.remote.answers import reason_in

if TYPE_CHECKING:
    import httpx
    from typing_extensions import Self

    from flag_rerank_integrations.remote.config import RemoteConfig
    from flag_rerank_integrations.remote.secret import Secret

__all__ = ["RefusedError", "Transport"]

logger: Final = logging.getLogger(__name__)

_BUSY: Final = frozenset({429, 502, 503, 504})
_NO_ACCESS: Final = frozenset({401, 403})
_NOT_THERE: Final = frozenset({404, 405})
_REFUSED: Final = frozenset({400, 413, 422})
_FIRST_WAIT: Final = 0.2
_LONGEST_WAIT: Final = 60.0
_MOST_DOUBLINGS: Final = 10


class RefusedError(InputError):
    """The server will not take a request as it is; `status` says in which way."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status: int = status


class Transport:
    """Sends requests, as many at once as allowed; for use on one event loop, as an async context manager.

    Args:
        config: Limits of time, of repetition and of concurrency.
        key: Sent with every request; None sends none.
    """

    def __init__(self, config: RemoteConfig, key: Secret | None) -> None:
        import httpx

        self._key = key
        self._retries = config.retries
        self._turns = asyncio.Semaphore(config.max_concurrency)
        self._client = httpx.AsyncClient(
            headers={} if key is None else {"Authorization": f"Bearer {key.reveal()}"},
            # Whoever waits for an answer has a limit for the whole call; here only a server that is not there counts.
            timeout=httpx.Timeout(None, connect=config.connect_timeout),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=config.max_concurrency),
        )
        self.requests: int = 0
        self.repeated: int = 0

    async def __aenter__(self) -> Self:
        """Open nothing yet: connections are made when needed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def get(self, url: str) -> tuple[int, Any]:
        """Return the status and the decoded answer (None where it is not JSON) of a GET request.

        Raises:
            WorkerError: The server cannot be reached, or stays busy.
        """
        response = await self._send("GET", url, None, None)
        return response.status_code, _decoded(response)

    async def post(self, url: str, body: dict[str, Any], deadline: float | None, on_turn: Callable[[], None]) -> Any:  # noqa: ANN401 - any JSON
        """Post JSON and return the decoded answer.

        Args:
            url: The endpoint.
            body: What to send.
            deadline: When the whole call must be over, by `time.monotonic`; no wait goes beyond it.
            on_turn: Called when this request's turn has come, so that it waits for the server alone.

        Raises:
            RefusedError: The server will not take the request as it is (400, 413, 422).
            ConfigError: The address, the key or the model is wrong.
            WorkerError: It cannot be reached (`WorkerDied`), stays busy, or fails.
        """
        content = json.dumps(body, ensure_ascii=False).encode()
        async with self._turns:
            on_turn()
            response = await self._send("POST", url, content, deadline)
        if not response.is_success:
            raise self._failure(response)
        answer = _decoded(response)
        if answer is None:
            msg = f"{url} answered {response.status_code} with something that is not JSON: is this the endpoint?"
            raise WorkerError(msg)
        return answer

    async def _send(self, method: str, url: str, content: bytes | None, deadline: float | None) -> httpx.Response:
        """Send a request, again and again where that can help and time allows."""
        import httpx

        lost = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError)
        headers = {} if content is None else {"Content-Type": "application/json"}
        attempts = 0
        while True:
            attempts += 1
            self.requests += 1
            try:
                response = await self._client.request(method, url, content=content, headers=headers)
            except lost as error:
                failure: RerankError = self._unreachable(url, error, attempts)
                asked_for = None
            except httpx.HTTPError as error:
                raise self._unreachable(url, error, attempts) from None
            else:
                if response.status_code not in _BUSY:
                    return response
                failure, asked_for = self._busy(response, attempts), _retry_after(response)
            if attempts > self._retries:
                raise failure
            await self._wait(attempts, asked_for, deadline, failure)
            self.repeated += 1

    async def _wait(self, attempts: int, asked_for: float | None, deadline: float | None, failure: RerankError) -> None:
        """Wait before the next attempt: longer each time, at random so that callers spread, or as the server asks."""
        doublings = min(attempts - 1, _MOST_DOUBLINGS)
        seconds = min(_FIRST_WAIT * 2**doublings, _LONGEST_WAIT) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        if asked_for is not None:
            seconds = max(seconds, asked_for)
        too_late = deadline is not None and time.monotonic() + seconds >= deadline
        if seconds > _LONGEST_WAIT or too_late:
            msg = f"{failure} The next attempt would come in {seconds:.1f} seconds, which is too late."
            raise type(failure)(msg)
        logger.info("%s Trying again in %.1f seconds.", failure, seconds)
        await asyncio.sleep(seconds)

    def _unreachable(self, url: str, error: Exception, attempts: int) -> WorkerDied:
        said = self._scrubbed(str(error)) or "the connection was closed"
        return WorkerDied(f"No answer from {url}: {type(error).__name__}, {said} ({_times(attempts)}).")

    def _busy(self, response: httpx.Response, attempts: int) -> WorkerError:
        return WorkerError(f"{self._told(response)} ({_times(attempts)}).")

    def _failure(self, response: httpx.Response) -> RerankError:
        """Return the error for an answer that is none."""
        status, told = response.status_code, self._told(response)
        if response.is_redirect:
            return ConfigError(f"{told}: it points to another address. Give that one as url.")
        if status in _NO_ACCESS:
            way = "wants an API key: give api_key or api_key_env" if self._key is None else "does not take the API key"
            return ConfigError(f"{told}: the server {way}.")
        if status in _NOT_THERE:
            return ConfigError(f"{told}: there is no such endpoint or model. Check url, form and model.")
        if status in _REFUSED:
            return RefusedError(f"{told}.", status)
        return WorkerError(f"{told}.")

    def _told(self, response: httpx.Response) -> str:
        """Say what a server answered, and its reason where it gave one."""
        reason = self._scrubbed(reason_in(_decoded(response)))
        return f"{response.request.url} answered {response.status_code}{f' ({reason})' if reason else ''}"

    def _scrubbed(self, text: str) -> str:
        return text if self._key is None else text.replace(self._key.reveal(), "***")


def _decoded(response: httpx.Response) -> Any:  # noqa: ANN401 - any JSON
    try:
        return response.json()
    except (ValueError, RecursionError):  # not JSON, or not in its encoding
        return None


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds a busy server asks to wait: it names them, or a date (RFC 9110, section 10.2.3)."""
    value = response.headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    return max((date - datetime.now(timezone.utc)).total_seconds(), 0.0)


def _times(attempts: int) -> str:
    return "tried once" if attempts == 1 else f"tried {attempts} times"
