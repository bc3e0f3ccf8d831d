"""OpenTelemetry: observable instruments that read `stats()` when metrics are collected."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from flag_rerank_integrations import __version__
from flag_rerank_integrations.monitoring.catalog import MEASURES, Measure
from flag_rerank_integrations.monitoring.sources import HasStats, Sources, missing_extra
from flag_rerank_integrations.monitoring.telemetry import SCOPE
from flag_rerank_integrations.results import RerankStats

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

__all__ = ["OpenTelemetryMetrics"]

_FRESH_SECONDS: Final = 1.0


class OpenTelemetryMetrics:
    """Exports the figures of one or more rerankers, each under an attribute `reranker`.

    The instruments live as long as the meter provider: OpenTelemetry knows no way to take one back.
    It keeps its rerankers alive until they are removed. The histogram of durations needs no object
    like this one: calls record it by themselves.

    Args:
        rerankers: By the name that becomes the attribute.
        meter_provider: Where to export to; by default the global one.

    Raises:
        MissingExtraError: opentelemetry-api is not installed.
        ConfigError: As `add`.
    """

    def __init__(self, rerankers: Mapping[str, HasStats], *, meter_provider: MeterProvider | None = None) -> None:
        try:
            from opentelemetry import metrics
        except ModuleNotFoundError as error:
            raise missing_extra(type(self), error) from error
        self._sources = Sources(rerankers)
        self._snapshot = _Snapshot(self._sources.read)
        self._observation: Any = metrics.Observation
        meter = metrics.get_meter(SCOPE, __version__, meter_provider)
        kinds = {"counter": meter.create_observable_counter, "gauge": meter.create_observable_gauge}
        for measure in MEASURES:
            kinds[measure.kind](measure.name, [self._callback(measure)], measure.unit, measure.description)

    def add(self, name: str, reranker: HasStats) -> None:
        """Export one more.

        Raises:
            ConfigError: The name is taken, not a string or empty; or it has no `stats()`.
        """
        self._sources.add(name, reranker)
        self._snapshot.forget()

    def remove(self, name: str) -> None:
        """Export one no longer, and let go of it.

        Raises:
            ConfigError: There is none of this name.
        """
        self._sources.remove(name)
        self._snapshot.forget()

    def _callback(self, measure: Measure) -> Callable[[CallbackOptions], Iterator[Observation]]:
        def observe(_options: CallbackOptions) -> Iterator[Observation]:
            for name, stats in self._snapshot.of(measure.name).items():
                for labels, value in measure.read(stats):
                    yield self._observation(value, {"reranker": name, **labels})

        return observe


class _Snapshot:
    """Figures read once for all instruments of one collection.

    A collection asks each instrument once, so an instrument that asks again opens the next one.
    """

    def __init__(self, read: Callable[[], dict[str, RerankStats]]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._asked: set[str] = set()
        self._figures: dict[str, RerankStats] | None = None
        self._read_at = 0.0

    def of(self, instrument: str) -> dict[str, RerankStats]:
        """Return the figures for one instrument."""
        with self._lock:
            stale = time.monotonic() - self._read_at > _FRESH_SECONDS
            if self._figures is None or stale or instrument in self._asked:
                self._figures, self._read_at = self._read(), time.monotonic()
                self._asked.clear()
            self._asked.add(instrument)
            return self._figures

    def forget(self) -> None:
        """Let go of the figures."""
        with self._lock:
            self._figures = None
