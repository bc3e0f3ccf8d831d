"""What a running reranker tells: figures for Prometheus and OpenTelemetry, spans of calls, and the GPUs' own.

Importing this package imports none of their libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flag_rerank_integrations.monitoring.otel_metrics import OpenTelemetryMetrics
    from flag_rerank_integrations.monitoring.prometheus import PrometheusCollector
    from flag_rerank_integrations.monitoring.telemetry import capture_texts

__all__ = ["OpenTelemetryMetrics", "PrometheusCollector", "capture_texts"]

_HOMES = {"OpenTelemetryMetrics": "otel_metrics", "PrometheusCollector": "prometheus", "capture_texts": "telemetry"}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute may be of any type
    """Import the module that owns a public name when the name is first used."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, whether or not they have been used yet."""
    return sorted({*globals(), *__all__})
