"""Spans and metrics, as the real SDK records them."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from monitoring_tools import held, served
from opentelemetry import metrics, trace
from opentelemetry.metrics import _internal as metrics_internal
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

from flag_rerank_integrations import Reranker, __version__
from flag_rerank_integrations.errors import ConfigError, InputError, WorkerTimeout
from flag_rerank_integrations.monitoring import OpenTelemetryMetrics, PrometheusCollector, capture_texts
from flag_rerank_integrations.monitoring.catalog import MEASURES
from flag_rerank_integrations.monitoring.telemetry import CallSpan
from flag_rerank_integrations.results import CALL_SECONDS_BOUNDS

PRIVATE = "a passage that nobody else may read"
LONG = "giant panda bear in China " * 100


@pytest.fixture(scope="module")
def reranker(light: str) -> Iterator[Reranker]:
    with Reranker(light, device="cpu", max_length=64) as live:
        yield live


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What the global provider records, in the order in which spans end."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> InMemoryMetricReader:
    """What the global provider collects."""
    reader = InMemoryMetricReader()
    monkeypatch.setattr(metrics_internal, "_METER_PROVIDER", MeterProvider([reader]))
    return reader


def only(spans: InMemorySpanExporter) -> ReadableSpan:
    (span,) = spans.get_finished_spans()
    return span


def collected(reader: InMemoryMetricReader) -> dict[str, Any]:
    """Collect once; return the metrics by name."""
    data = reader.get_metrics_data()
    if data is None:
        return {}
    scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
    assert {scope.scope.name for scope in scopes} <= {"flag_rerank_integrations"}
    return {metric.name: metric for scope in scopes for metric in scope.metrics}


def test_a_span_tells_what_was_asked_and_what_was_read(reranker: Reranker, spans: InMemorySpanExporter) -> None:
    before = reranker.stats()
    reranker.rank("panda", ["bear", LONG, "bamboo"], top_n=2)
    stats, span = reranker.stats(), only(spans)
    assert span.name == "flag_rerank.rank"
    assert span.instrumentation_scope is not None
    assert (span.instrumentation_scope.name, span.instrumentation_scope.version) == (
        "flag_rerank_integrations",
        __version__,
    )
    assert span.attributes == {
        "flag_rerank.model": reranker.config.model,
        "flag_rerank.device": "cpu",
        "flag_rerank.top_n": 2,
        "flag_rerank.pairs": 3,
        "flag_rerank.queries": 1,
        "flag_rerank.tokens": stats.tokens - before.tokens,
        "flag_rerank.truncated_pairs": 1,
        "flag_rerank.truncated_tokens": stats.truncated_tokens - before.truncated_tokens,
    }
    assert span.status.status_code == StatusCode.UNSET
    assert span.parent is None
    assert not trace.get_current_span().is_recording()


def test_tokens_are_those_of_the_call_on_every_executor(light: str, spans: InMemorySpanExporter) -> None:
    pairs = [("panda", f"giant bear {number} " * (number % 9 + 1)) for number in range(40)]
    told = []
    for options in ({"device": "cpu"}, {"device": "cpu:2"}):
        with Reranker(light, max_length=64, **options) as live:
            with ThreadPoolExecutor(4) as callers:
                list(callers.map(lambda _: live.score(pairs), range(4)))
            tokens = {span.attributes["flag_rerank.tokens"] for span in spans.get_finished_spans() if span.attributes}
            assert len(tokens) == 1
            told += tokens
            assert live.stats().tokens >= told[-1]
            (device,) = {
                span.attributes["flag_rerank.device"] for span in spans.get_finished_spans() if span.attributes
            }
            assert device == ("cpu" if options["device"] == "cpu" else "cpu, cpu")
        spans.clear()
    assert told[0] == told[1] > 40


def test_windows_and_layers_count_their_tokens_once(light: str, spans: InMemorySpanExporter) -> None:
    with Reranker(light, device="cpu", max_length=64, long_passages="windows") as live:
        live.score([("panda", LONG)])
        assert only(spans).attributes["flag_rerank.tokens"] == live.stats().tokens > 64  # type: ignore[index]


def test_layers_of_one_pair_are_one_pair(layered: Any, spans: InMemorySpanExporter) -> None:
    with Reranker(layered("layerwise"), device="cpu") as live:
        live.score_layers([("panda", "bear"), ("panda", "bamboo")], [2, 3])
        span = only(spans)
        assert span.name == "flag_rerank.score_layers"
        assert span.attributes["flag_rerank.pairs"] == 2  # type: ignore[index]
        assert span.attributes["flag_rerank.tokens"] == live.stats().tokens  # type: ignore[index]


def test_async_calls_are_children_of_their_own_callers_span(reranker: Reranker, spans: InMemorySpanExporter) -> None:
    tracer = trace.get_tracer("caller")

    async def asking(name: str) -> None:
        with tracer.start_as_current_span(name) as own:
            await reranker.arank("panda", [f"bear {name}"])
            assert trace.get_current_span() is own
            await reranker.ascore([("panda", "bear")])

    async def several() -> None:
        await asyncio.gather(*(asking(f"caller {number}") for number in range(8)))

    asyncio.run(several())
    finished = spans.get_finished_spans()
    callers = {span.context.span_id for span in finished if span.name.startswith("caller")}
    asked = [span.parent.span_id for span in finished if span.name.startswith("flag_rerank.") and span.parent]
    assert len(asked) == 16
    assert sorted(asked) == sorted([*callers, *callers])


def test_calls_in_threads_are_children_of_the_context_they_run_in(
    reranker: Reranker, spans: InMemorySpanExporter
) -> None:
    tracer = trace.get_tracer("caller")
    with ThreadPoolExecutor(4) as pool, tracer.start_as_current_span("caller") as own:
        contexts = [contextvars.copy_context() for _ in range(4)]
        list(pool.map(lambda context: context.run(reranker.score, [("panda", "bear")]), contexts))
        alone = threading.Thread(target=reranker.score, args=([("panda", "bear")],))
        alone.start()
        alone.join()
    parents = [span.parent for span in spans.get_finished_spans() if span.name == "flag_rerank.score"]
    assert [parent.span_id for parent in parents if parent] == [own.get_span_context().span_id] * 4
    assert parents.count(None) == 1  # a thread that was given no context has none


def test_errors_have_a_status_and_quote_no_text(reranker: Reranker, spans: InMemorySpanExporter, light: str) -> None:
    with pytest.raises(ConfigError):
        reranker.rank("panda", ["bear"], top_n=-1)
    span = only(spans)
    assert span.status.status_code == StatusCode.ERROR
    assert span.status.description is not None
    assert "top_n" in span.status.description
    assert span.attributes["error.type"] == "ConfigError"  # type: ignore[index]
    assert span.events[0].name == "exception"
    spans.clear()
    strict = Reranker(light, device="cpu", max_length=16, long_passages="error")
    with strict, pytest.raises(InputError, match=PRIVATE[:20]):
        strict.score([("panda", PRIVATE * 20)])
    span = only(spans)
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "InputError")
    assert span.events[0].attributes == {"exception.type": "flag_rerank_integrations.errors.InputError"}
    assert PRIVATE[:20] not in span.to_json()


def test_a_caller_that_leaves_ends_its_span_without_an_error(reranker: Reranker, spans: InMemorySpanExporter) -> None:
    async def leave(entered: threading.Event) -> None:
        call = asyncio.ensure_future(reranker.arank("panda", ["bear in the wood"]))
        await asyncio.to_thread(entered.wait, 60)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    with held(reranker) as entered:
        asyncio.run(leave(entered))
    span = only(spans)
    assert span.status.status_code == StatusCode.UNSET
    assert span.attributes["error.type"] == "CancelledError"  # type: ignore[index]
    assert not span.events


def test_texts_are_told_only_when_asked_for(reranker: Reranker, spans: InMemorySpanExporter) -> None:
    reranker.rank("panda", [PRIVATE, "bear"])
    assert PRIVATE not in only(spans).to_json()
    spans.clear()
    capture_texts()
    try:
        reranker.rank("panda", [PRIVATE, "bear"])
    finally:
        capture_texts(enabled=False)
    assert only(spans).attributes["flag_rerank.query_texts"] == ("panda",)  # type: ignore[index]
    assert only(spans).attributes["flag_rerank.passage_texts"] == (PRIVATE, "bear")  # type: ignore[index]
    spans.clear()
    reranker.rank("panda", [PRIVATE])
    assert PRIVATE not in only(spans).to_json()


def test_without_a_provider_there_is_no_span(reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    assert CallSpan.begin("rank", "model", None) is None
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(sampler=ALWAYS_OFF))
    assert CallSpan.begin("rank", "model", None) is None
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.trace", SimpleNamespace())  # while it is imported
    assert CallSpan.begin("rank", "model", None) is None
    assert len(reranker.score([("panda", "bear")])) == 1


def test_durations_are_recorded_by_calls_themselves(reranker: Reranker, reader: InMemoryMetricReader) -> None:
    reranker.rank("panda", ["bear"])
    with pytest.raises(ConfigError):
        reranker.rank("panda", ["bear"], top_n=-1)
    metric = collected(reader)["flag_rerank.call.duration"]
    assert metric.unit == "s"
    points = {point.attributes["flag_rerank.outcome"]: point for point in metric.data.data_points}
    assert set(points) == {"ok", "error"}
    assert points["error"].attributes["error.type"] == "ConfigError"
    assert points["ok"].attributes == {
        "flag_rerank.method": "rank",
        "flag_rerank.outcome": "ok",
        "flag_rerank.model": reranker.config.model,
        "flag_rerank.device": "cpu",
    }
    assert points["ok"].explicit_bounds == CALL_SECONDS_BOUNDS
    assert (points["ok"].count, points["ok"].sum > 0) == (1, True)


def test_an_exemplar_points_to_the_span(
    reranker: Reranker, reader: InMemoryMetricReader, spans: InMemorySpanExporter
) -> None:
    reranker.rank("panda", ["bear"])
    (point,) = collected(reader)["flag_rerank.call.duration"].data.data_points
    (exemplar,) = point.exemplars
    assert exemplar.span_id == only(spans).context.span_id


def test_instruments_tell_what_prometheus_is_told(light: str) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    with Reranker(light, device="cpu:2", max_length=64) as pool, Reranker(light, device="cpu") as single:
        rerankers = {"pool": pool, "single": single}
        exported = OpenTelemetryMetrics(rerankers, meter_provider=provider)
        pool.rank("panda", ["bear", LONG])
        single.score([("panda", "bear")])
        with served(PrometheusCollector(rerankers)) as scrape:
            found, told = scrape(), collected(reader)
        for measure in MEASURES:
            if measure.name == "flag_rerank.device.utilization":
                continue
            metric = told[measure.name]
            assert (metric.unit, metric.description) == (measure.unit, measure.description)
            assert (type(metric.data).__name__, getattr(metric.data, "is_monotonic", None)) == (
                ("Sum", True) if measure.kind == "counter" else ("Gauge", None)
            )
            for point in metric.data.data_points:
                labels = {name.replace(".", "_"): str(value) for name, value in point.attributes.items()}
                if not measure.name.startswith("flag_rerank.device."):  # memory changes from one moment to the next
                    assert point.value == found.one(measure.prometheus_name, **labels), measure.name
        assert len(told["flag_rerank.worker_up"].data.data_points) == 3
        single.score([("panda", "bear")])
        calls = {
            point.attributes["reranker"]: point.value
            for point in collected(reader)["flag_rerank.calls"].data.data_points
        }
        assert calls == {"pool": 1, "single": 2}
        exported.remove("pool")
        (point,) = collected(reader)["flag_rerank.calls"].data.data_points
        assert point.attributes == {"reranker": "single"}
        exported.add("again", pool)
        assert len(collected(reader)["flag_rerank.calls"].data.data_points) == 2


def test_one_collection_reads_the_figures_once(light: str) -> None:
    class Counted:
        reads = 0

        def stats(self) -> Any:
            self.reads += 1
            return real.stats()

    reader = InMemoryMetricReader()
    with Reranker(light, device="cpu") as real:
        counted = Counted()
        OpenTelemetryMetrics({"main": counted}, meter_provider=MeterProvider([reader]))
        for reads in (1, 2, 3):
            assert "flag_rerank.calls" in collected(reader)
            assert counted.reads == reads


def test_the_global_meter_provider_is_the_default(reranker: Reranker, reader: InMemoryMetricReader) -> None:
    OpenTelemetryMetrics({"main": reranker})
    assert metrics.get_meter_provider() is metrics_internal._METER_PROVIDER
    assert "flag_rerank.pairs" in collected(reader)


def test_a_timeout_is_told_with_its_message(light: str, spans: InMemorySpanExporter) -> None:
    with Reranker(light, device="cpu", timeout=0.2) as hasty, held(hasty), pytest.raises(WorkerTimeout):
        hasty.score([("panda", "bear")])
    assert only(spans).status.description == "WorkerTimeout: 1 pairs were not scored within timeout=0.2 seconds."
