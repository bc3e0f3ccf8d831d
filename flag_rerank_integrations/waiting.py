"""Waiting for an answer: with a limit, and taking queued work along when the caller leaves."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from flag_rerank_integrations.errors import WorkerTimeout
from flag_rerank_integrations.pairs import ScoredPairs

__all__ = ["wait_async", "wait_for"]


def wait_for(future: Future[ScoredPairs], seconds: float | None, count: int) -> ScoredPairs:
    """Block until there is an answer; whoever is interrupted takes its queued work along.

    Args:
        future: Of the answer.
        seconds: The longest to wait; None is no limit.
        count: How many pairs it is about, for the message.

    Raises:
        WorkerTimeout: The answer did not come in time.
    """
    try:
        return future.result(seconds)
    except FutureTimeoutError as error:
        if future.done() and future.exception() is error:
            raise
        raise _timed_out(count, seconds) from None
    finally:
        future.cancel()


async def wait_async(future: Future[ScoredPairs], seconds: float | None, count: int) -> ScoredPairs:
    """Wait without blocking; a cancelled task takes its queued work along. See `wait_for`."""
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), seconds)
    except (asyncio.TimeoutError, TimeoutError) as error:
        if isinstance(error, WorkerTimeout):
            raise
        raise _timed_out(count, seconds) from None
    finally:
        future.cancel()


def _timed_out(count: int, seconds: float | None) -> WorkerTimeout:
    return WorkerTimeout(f"{count} pairs were not scored within timeout={seconds} seconds.")
