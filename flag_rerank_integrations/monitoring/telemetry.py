"""OpenTelemetry's part in a call: a span around it and its duration, where somebody has set a provider.

The API is never imported from here. Whoever has set a provider has imported it, so without it in
`sys.modules` there is nobody to tell, and a look there is all that a call pays.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from flag_rerank_integrations.errors import InputError
from flag_rerank_integrations.pairs import Pair, ScoredPairs
from flag_rerank_integrations.results import CALL_SECONDS_BOUNDS

__all__ = ["SCOPE", "CallSpan", "capture_texts", "record_duration"]

SCOPE: Final = "flag_rerank_integrations"
"""The instrumentation scope of all spans and instruments."""
_PREFIX: Final = "flag_rerank."


class _Texts:
    """Whether spans carry texts."""

    captured = False


def capture_texts(*, enabled: bool = True) -> None:
    """Have the spans of all calls carry their queries and passages, which they do not of themselves.

    Args:
        enabled: False has them leave the texts out again.
    """
    _Texts.captured = enabled


class CallSpan:
    """The span of one call, current until it ends.

    Args:
        api: The module `opentelemetry.trace`.
        span: A recording span.
    """

    def __init__(self, api: Any, span: Any) -> None:  # noqa: ANN401 - a module; an object of whichever SDK is used
        self._api, self._span = api, span
        self._context: Any = sys.modules["opentelemetry.context"]
        self._token = self._context.attach(api.set_span_in_context(span))

    @classmethod
    def begin(cls, method: str, model: str | None, top_n: int | None) -> CallSpan | None:
        """Begin a span below the caller's current one; None where nobody records it.

        Args:
            method: Names the span: "rank" makes it "flag_rerank.rank".
            model: The model's name.
            top_n: How many passages of a ranking were asked for at most.
        """
        api: Any = sys.modules.get("opentelemetry.trace")
        find = getattr(api, "get_tracer_provider", None)  # missing while another thread imports it
        if find is None:
            return None
        provider = find()
        if isinstance(provider, api.ProxyTracerProvider):  # nobody has set one
            return None
        known = {"model": model, "top_n": top_n}
        attributes = {_PREFIX + name: value for name, value in known.items() if value is not None}
        span = _tracers.of(provider).start_span(_PREFIX + method, attributes=attributes)
        return cls(api, span) if span.is_recording() else None

    def ask(self, pairs: Sequence[Pair]) -> None:
        """Note what is asked; the texts only where that was asked for."""
        queries = list(dict.fromkeys(query for query, _ in pairs))
        self._set(pairs=len(pairs), queries=len(queries))
        if _Texts.captured:
            self._set(query_texts=queries, passage_texts=[passage for _, passage in pairs])

    def answer(self, scored: ScoredPairs, pairs: int) -> None:
        """Note how much of it was read, where that is told.

        Args:
            scored: The answer; with several layers each pair occurs several times.
            pairs: How many pairs were asked for.
        """
        tokens, cut = sum(scored.tokens[:pairs]), scored.truncated_tokens[:pairs]
        if tokens:
            known = [count for count in cut if count]
            self._set(tokens=tokens, truncated_pairs=len(known), truncated_tokens=sum(known))

    def end(self, device: str, error: BaseException | None) -> None:
        """End the span.

        Args:
            device: Where the model ran.
            error: What the call ended with; a caller that left is no error of the call.
        """
        if device:
            self._set(device=device)
        if error is not None:
            self._span.set_attribute("error.type", type(error).__name__)
        if isinstance(error, Exception):
            self._record(error)
        self._context.detach(self._token)
        self._span.end()

    def _record(self, error: Exception) -> None:
        """Record an error, its message only if it cannot quote a text or texts are captured anyway."""
        status = self._api.StatusCode.ERROR
        if isinstance(error, InputError) and not _Texts.captured:
            kind = type(error)
            self._span.add_event("exception", {"exception.type": f"{kind.__module__}.{kind.__qualname__}"})
            self._span.set_status(self._api.Status(status, kind.__name__))
        else:
            self._span.record_exception(error)
            self._span.set_status(self._api.Status(status, f"{type(error).__name__}: {error}"))

    def _set(self, **attributes: str | float | list[str]) -> None:
        for name, value in attributes.items():
            self._span.set_attribute(_PREFIX + name, value)


def record_duration(
    seconds: float, attributes: Mapping[str, str | None], where: Callable[[], str], error: BaseException | None
) -> None:
    """Record how long a call took in the histogram "flag_rerank.call.duration", where there is a meter provider.

    Args:
        seconds: How long it took.
        attributes: What was called and how that ended; None is left out.
        where: Names the devices.
        error: What it ended with.
    """
    find = getattr(sys.modules.get("opentelemetry.metrics"), "get_meter_provider", None)
    if find is None:
        return
    provider = find()
    if type(provider).__name__ == "_ProxyMeterProvider":  # nobody has set one; the class has no public name
        return
    told = {_PREFIX + name: value for name, value in {**attributes, "device": where()}.items() if value}
    if error is not None:
        told["error.type"] = type(error).__name__
    _durations.of(provider).record(seconds, told)


class _MadeOnce:
    """What is made of a provider: one thing as long as the provider stays the same."""

    def __init__(self, make: Any) -> None:  # noqa: ANN401 - of any provider anything
        self._make = make
        self._made: tuple[Any, Any] = (None, None)

    def of(self, provider: Any) -> Any:  # noqa: ANN401 - as above
        owner, made = self._made
        if owner is not provider:
            made = self._make(provider)
            self._made = (provider, made)
        return made


def _duration_of(provider: Any) -> Any:  # noqa: ANN401 - as above
    from flag_rerank_integrations import __version__

    return provider.get_meter(SCOPE, __version__).create_histogram(
        _PREFIX + "call.duration",
        unit="s",
        description="How long calls took, waiting included.",
        explicit_bucket_boundaries_advisory=CALL_SECONDS_BOUNDS,
    )


def _tracer_of(provider: Any) -> Any:  # noqa: ANN401 - as above
    from flag_rerank_integrations import __version__

    return provider.get_tracer(SCOPE, __version__)


_tracers: Final = _MadeOnce(_tracer_of)
_durations: Final = _MadeOnce(_duration_of)
