"""Scores the pairs of one call: grouped by query, cut into requests, put back in the caller's order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from flag_rerank_integrations.encoding import repair
from flag_rerank_integrations.errors import InputError
from flag_rerank_integrations.executors.request import OpenRequests, Request
from flag_rerank_integrations.ranking import sigmoid
from flag_rerank_integrations.remote.answers import scores_in
from flag_rerank_integrations.remote.config import RemoteConfig
from flag_rerank_integrations.remote.discovery import Endpoint
from flag_rerank_integrations.remote.forms import Question
from flag_rerank_integrations.remote.transport import RefusedError, Transport
from flag_rerank_integrations.results import DeviceStats, RerankStats

__all__ = ["RemoteScorer"]

logger: Final = logging.getLogger(__name__)

_MAYBE_TOO_LARGE: Final = frozenset({413, 422})


@dataclass(frozen=True, slots=True)
class _Batch:
    """Passages of one request, each once, and where the caller has them."""

    request: Request
    query: str
    passages: Sequence[str]
    places: Sequence[Sequence[int]]

    def halves(self) -> tuple[_Batch, _Batch]:
        """Cut in two."""
        middle = len(self.passages) // 2
        return (
            replace(self, passages=self.passages[:middle], places=self.places[:middle]),
            replace(self, passages=self.passages[middle:], places=self.places[middle:]),
        )


class RemoteScorer:
    """Asks one endpoint for scores; for use on the transport's event loop.

    Args:
        transport: Sends the requests.
        endpoint: Where and how to ask.
        config: What a score is, and how much to ask at once.
    """

    def __init__(self, transport: Transport, endpoint: Endpoint, config: RemoteConfig) -> None:
        self._transport = transport
        self._endpoint = endpoint
        self._config = config
        self._pairs = 0
        self._scored_pairs = 0
        self._open = OpenRequests()
        self._under_way = 0
        self._clock: tuple[float, float | None] = (0.0, None)  # seconds until then, and since when it runs again

    async def score(self, request: Request, deadline: float | None) -> None:
        """Score a request's pairs; requests of one call run side by side, and all end with the first that fails.

        Args:
            request: Takes the scores.
            deadline: When the call must be over, by `time.monotonic`.

        Raises:
            RerankError: As `Transport.post`, or an answer is not usable.
        """
        batches = list(_batches(request, self._endpoint.most_passages))
        queue = iter(batches)
        # No more tasks than can ask at once: calls take turns, and a short one does not wait for a long one to end.
        lanes = [
            asyncio.ensure_future(self._serve(queue, request, deadline))
            for _ in range(min(len(batches), self._config.max_concurrency))
        ]
        self._pairs += len(request.pairs)
        self._open.add(request)
        self._enter()
        try:
            await asyncio.gather(*lanes)
        finally:
            self._leave()
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    def stats(self) -> RerankStats:
        """Return a snapshot of the work done; what only the server knows is left at zero."""
        seconds, since = self._clock
        return RerankStats(
            pairs=self._pairs,
            scored_pairs=self._scored_pairs,
            seconds=seconds if since is None else seconds + time.monotonic() - since,
            family=f"remote {self._endpoint.form.name}",
            devices=(DeviceStats(self._endpoint.url),),
            requests=self._transport.requests,
            retries=self._transport.repeated,
            waiting_calls=self._open.waiting,
        )

    async def _serve(self, queue: Iterator[_Batch], request: Request, deadline: float | None) -> None:
        for batch in queue:
            scores = await self._ask(batch, deadline)
            self._scored_pairs += len(scores)
            done = 0
            for score, places in zip(scores, batch.places, strict=True):
                for place in places:
                    request.put(place, score, None)
                    done += 1
            request.report(done)

    async def _ask(self, batch: _Batch, deadline: float | None) -> list[float]:
        """Return the scores of a batch; one that the server finds too large is halved."""
        try:
            return await self._asked(batch, deadline)
        except RefusedError as refused:
            count = len(batch.passages)
            if count == 1 or refused.status not in _MAYBE_TOO_LARGE:
                what = f"pair {batch.places[0][0]}" if count == 1 else f"a request of {count} pairs"
                msg = f"The server refused {what}: {refused}"
                raise InputError(msg) from None
            logger.warning("%s Asking again in two halves; max_passages below %d avoids this.", refused, count)
        first, second = batch.halves()
        return await self._ask(first, deadline) + await self._ask(second, deadline)

    async def _asked(self, batch: _Batch, deadline: float | None) -> list[float]:
        form, normalize = self._endpoint.form, self._config.normalize
        logits = None if normalize is None or not form.gives_logits else True
        question = Question(
            query=batch.query,
            passages=batch.passages,
            model=self._config.model,
            logits=logits,
            truncate=self._config.long_passages == "truncate",
        )
        answer = await self._transport.post(self._endpoint.url, form.body(question), deadline, batch.request.begin)
        ready = normalize is True and not logits
        scores = scores_in(answer, form, len(batch.passages), unit_interval=ready)
        # The sigmoid is taken here, in float64: a server's, in float32, calls all large logits equal.
        return [sigmoid(score) for score in scores] if normalize and logits else scores

    def _enter(self) -> None:
        if self._under_way == 0:
            self._clock = self._clock[0], time.monotonic()
        self._under_way += 1

    def _leave(self) -> None:
        self._under_way -= 1
        seconds, since = self._clock
        if self._under_way == 0 and since is not None:
            self._clock = seconds + time.monotonic() - since, None


def _batches(request: Request, most_passages: int) -> Iterator[_Batch]:
    """Group pairs by query, equal ones once, and cut the groups to what one request may hold."""
    groups: dict[str, dict[str, list[int]]] = {}
    for place, (query, passage) in enumerate(request.pairs):
        groups.setdefault(repair(query), {}).setdefault(repair(passage), []).append(place)
    for query, group in groups.items():
        passages, places = list(group), list(group.values())
        for first in range(0, len(passages), most_passages):
            part = slice(first, first + most_passages)
            yield _Batch(request, query, passages[part], places[part])
