"""What is exported: one table of measures, from which Prometheus and OpenTelemetry take names, units and values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from flag_rerank_integrations import errors
from flag_rerank_integrations.results import DeviceStats, RerankStats

__all__ = ["CALL_DURATION", "MEASURES", "OUTCOMES", "Measure", "Point"]

Point = tuple[dict[str, str], float]
"""Labels, by OpenTelemetry's names, and a value."""

OUTCOMES: Final = ("ok", "error", "cancelled")
"""How a call can end."""
CALL_DURATION: Final = "flag_rerank_call_duration_seconds"
"""Prometheus's name of the histogram of durations."""

_UNIT_ENDINGS: Final = {"": "", "s": "_seconds", "By": "_bytes", "1": "_ratio"}
# A counter of errors that first appears at 1 shows no increase: each has to be there at 0 before.
_ERRORS: Final = tuple(name for name in errors.__all__ if name != "RerankError")


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a reranker, or of each of its devices or errors."""

    name: str
    """OpenTelemetry's name."""
    kind: Literal["counter", "gauge"]
    unit: str
    """In UCUM: "s", "By" (bytes), "1" (a fraction); "" for what is counted."""
    description: str
    read: Callable[[RerankStats], Iterable[Point]]
    labels: tuple[str, ...] = ()
    """The names of the labels that every point has."""

    @property
    def prometheus_name(self) -> str:
        """The name that Prometheus stores, the same that its translation of OpenTelemetry's gives."""
        ending = "_total" if self.kind == "counter" else ""
        return self.name.replace(".", "_") + _UNIT_ENDINGS[self.unit] + ending


def _counter(field: str, description: str, name: str | None = None, unit: str = "") -> Measure:
    return _single("counter", field, description, name, unit)


def _gauge(field: str, description: str) -> Measure:
    return _single("gauge", field, description, None, "")


def _single(kind: Literal["counter", "gauge"], field: str, description: str, name: str | None, unit: str) -> Measure:
    """Make the measure of one field of the figures."""

    def read(stats: RerankStats) -> list[Point]:
        return [({}, getattr(stats, field))]

    return Measure(f"flag_rerank.{name or field}", kind, unit, description, read)


def _device(field: str, name: str, unit: str, description: str) -> Measure:
    """Make the measure of one field of the figures of each device, left out where it is not known."""

    def read(stats: RerankStats) -> Iterator[Point]:
        for number, device in enumerate(stats.devices):
            value = getattr(device, field)
            if value is not None:
                yield _worker_labels(number, device), float(value)

    return Measure(f"flag_rerank.{name}", "gauge", unit, description, read, ("worker", "device"))


def _worker_labels(number: int, device: DeviceStats) -> dict[str, str]:
    # The number tells workers on one device apart: "cpu:2" are two that are both called "cpu".
    return {"worker": str(number), "device": device.name}


def _errors(stats: RerankStats) -> list[Point]:
    names = dict.fromkeys((*_ERRORS, *stats.errors))
    return [({"error.type": name}, stats.errors.get(name, 0)) for name in names]


def _load_seconds(stats: RerankStats) -> list[Point]:
    return [({"step": step}, seconds) for step, seconds in stats.load_seconds.items()]


def _info(stats: RerankStats) -> list[Point]:
    return [({"model": stats.model, "family": stats.family, "layout": stats.layout}, 1)] if stats.family else []


MEASURES: Final = (
    _counter("calls", "Calls that have begun."),
    Measure(
        "flag_rerank.errors", "counter", "", "Calls that ended with an error, by its class.", _errors, ("error.type",)
    ),
    _counter("cancelled_calls", "Calls whose caller left before the answer."),
    _gauge("calls_in_flight", "Calls that have begun and not ended."),
    _gauge("pairs_in_flight", "Pairs of the calls in flight."),
    _gauge("waiting_calls", "Calls in flight of which no worker has taken up any pair."),
    _counter("pairs", "Pairs asked for."),
    _counter("scored_pairs", "Pairs the model ran on."),
    _counter("cached_pairs", "Pairs whose score was remembered."),
    _counter("pruned_pairs", "Pairs that left a ranking before the last layer."),
    _counter("windows", "Sequences the model ran on."),
    _counter("windowed_pairs", "Scored pairs whose passage was read in several windows."),
    _counter("truncated_pairs", "Scored pairs whose passage was not read to its end."),
    _counter("truncated_tokens", "Tokens of scored passages that were not read."),
    _counter("truncated_queries", "Scored pairs whose query was not read to its end."),
    _counter("tokens", "Tokens the model read."),
    _counter("computed_tokens", "Token positions computed, padding included."),
    _counter("forward_passes", "Forward passes of the model."),
    _counter("seconds", "Time spent scoring, added up over workers.", "scoring", "s"),
    _counter("oom_backoffs", "Times the token budget was halved because memory ran out."),
    _counter("worker_restarts", "Times a worker was started anew."),
    _counter("requests", "HTTP requests sent to a server, retries included.", "http_requests"),
    _counter("retries", "HTTP requests that were repeated.", "http_retries"),
    _gauge("max_batch_tokens", "The token budget of a forward pass, now."),
    Measure("flag_rerank.load", "gauge", "s", "Where the start-up went, by step.", _load_seconds, ("step",)),
    Measure(
        "flag_rerank.info", "gauge", "", "Always 1; its labels tell what runs.", _info, ("model", "family", "layout")
    ),
    _device("up", "worker_up", "", "Whether the worker lives and has its model loaded."),
    _device("free_memory", "device.memory_free", "By", "What is left of the device's memory."),
    _device("used_memory", "device.memory_used", "By", "What is taken of the device's memory; on a CPU by the worker."),
    _device("peak_memory", "device.memory_peak", "By", "The most that the worker took at one time."),
    _device("total_memory", "device.memory_size", "By", "The device's memory."),
    _device("utilization", "device.utilization", "1", "Part of the time in which the device was busy."),
)
"""All measures but the histogram of durations."""
