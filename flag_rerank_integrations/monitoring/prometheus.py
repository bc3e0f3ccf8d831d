"""Prometheus: a collector that reads `stats()` when it is scraped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from flag_rerank_integrations.monitoring.catalog import CALL_DURATION, MEASURES, OUTCOMES, Measure
from flag_rerank_integrations.monitoring.sources import HasStats, Sources, missing_extra
from flag_rerank_integrations.results import CALL_SECONDS_BOUNDS, Histogram, RerankStats

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["PrometheusCollector"]

_NONE_YET = Histogram((0,) * (len(CALL_SECONDS_BOUNDS) + 1), 0.0)


class PrometheusCollector:
    """Exports the figures of one or more rerankers, each under a label `reranker`.

    To be registered: `REGISTRY.register(PrometheusCollector({"main": reranker}))`. Between scrapes it
    does nothing; a scrape asks no worker. It keeps its rerankers alive until they are removed.

    Args:
        rerankers: By the name that becomes the label.

    Raises:
        MissingExtraError: prometheus-client is not installed.
        ConfigError: As `add`.
    """

    def __init__(self, rerankers: Mapping[str, HasStats]) -> None:
        try:
            from prometheus_client import metrics_core
        except ModuleNotFoundError as error:
            raise missing_extra(type(self), error) from error
        self._families: Any = metrics_core
        self._sources = Sources(rerankers)

    def add(self, name: str, reranker: HasStats) -> None:
        """Export one more.

        Raises:
            ConfigError: The name is taken, not a string or empty; or it has no `stats()`.
        """
        self._sources.add(name, reranker)

    def remove(self, name: str) -> None:
        """Export one no longer, and let go of it.

        Raises:
            ConfigError: There is none of this name.
        """
        self._sources.remove(name)

    def describe(self) -> Iterator[Metric]:
        """Return the metrics without values: a registry asks which names are taken."""
        return self._metrics({})

    def collect(self) -> Iterator[Metric]:
        """Return the metrics with the figures of now."""
        return self._metrics(self._sources.read())

    def _metrics(self, figures: Mapping[str, RerankStats]) -> Iterator[Metric]:
        for measure in MEASURES:
            yield self._metric(measure, figures)
        yield self._durations(figures)

    def _metric(self, measure: Measure, figures: Mapping[str, RerankStats]) -> Metric:
        families = {"counter": self._families.CounterMetricFamily, "gauge": self._families.GaugeMetricFamily}
        labels = ["reranker", *(label.replace(".", "_") for label in measure.labels)]
        family: Metric = families[measure.kind](measure.prometheus_name, measure.description, labels=labels)
        for name, stats in figures.items():
            for values, value in measure.read(stats):
                family.add_metric([name, *(values[label] for label in measure.labels)], value)  # type: ignore[attr-defined]
        return family

    def _durations(self, figures: Mapping[str, RerankStats]) -> Metric:
        description = "How long calls took, waiting included, by how they ended."
        family = self._families.HistogramMetricFamily(CALL_DURATION, description, labels=["reranker", "outcome"])
        bounds = [*map(str, CALL_SECONDS_BOUNDS), "+Inf"]
        for name, stats in figures.items():
            for outcome in OUTCOMES:
                took = stats.call_seconds.get(outcome, _NONE_YET)
                buckets = list(zip(bounds, accumulate(took.counts), strict=True))
                family.add_metric([name, outcome], buckets, took.seconds)
        metric: Metric = family
        return metric
