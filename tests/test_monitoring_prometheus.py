"""The Prometheus collector, scraped over HTTP as Prometheus does it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from monitoring_tools import Scrape, pids, served, until
from prometheus_client import CollectorRegistry, Counter
from rerank_server import Serve, asking

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import ConfigError, InputError
from flag_rerank_integrations.monitoring import PrometheusCollector
from flag_rerank_integrations.monitoring.catalog import MEASURES
from flag_rerank_integrations.results import CALL_SECONDS_BOUNDS

DOCS = Path(__file__).parent.parent / "docs"
DASHBOARD = DOCS / "grafana-dashboard.json"
LONG = "giant panda bear in China " * 100
# Asked of the driver of an accelerator alone, which a machine of tests need not have.
OF_ACCELERATORS = {"flag_rerank_device_utilization_ratio"}


@pytest.fixture(scope="module")
def pool(light: str) -> Iterator[Reranker]:
    with Reranker(light, device="cpu:2", max_length=64) as live:
        yield live


@pytest.fixture(scope="module")
def single(light: str) -> Iterator[Reranker]:
    with Reranker(light, device="cpu", max_length=64, score_cache=10) as live:
        yield live


def test_every_figure_is_exported_for_each_reranker(pool: Reranker, single: Reranker) -> None:
    single.rank("panda", ["bear", LONG])
    single.rank("panda", ["bear"])
    with pytest.raises(InputError):
        single.score([("panda", None)])  # type: ignore[list-item]
    with served(PrometheusCollector({"pool": pool, "single": single})) as scrape:
        found, stats = scrape(), single.stats()
    label = {"reranker": "single"}
    assert found.one("flag_rerank_calls_total", **label) == stats.calls == 3
    assert found.one("flag_rerank_pairs_total", **label) == stats.pairs == 3
    assert found.one("flag_rerank_scored_pairs_total", **label) == stats.scored_pairs == 2
    assert found.one("flag_rerank_cached_pairs_total", **label) == stats.cached_pairs == 1
    assert found.one("flag_rerank_truncated_tokens_total", **label) == stats.truncated_tokens > 0
    assert found.one("flag_rerank_tokens_total", **label) == stats.tokens > 0
    assert found.one("flag_rerank_scoring_seconds_total", **label) == pytest.approx(stats.seconds)
    assert found.one("flag_rerank_errors_total", error_type="InputError", **label) == 1
    assert found.one("flag_rerank_errors_total", error_type="WorkerTimeout", **label) == 0
    assert found.one("flag_rerank_load_seconds", step="total", **label) == stats.load_seconds["total"]
    info = {"model": single.config.model, "family": stats.family, "layout": stats.layout}
    assert found.one("flag_rerank_info", **info, **label) == 1
    for measure in MEASURES:
        if measure.prometheus_name not in OF_ACCELERATORS:
            named = {dict(labels)["reranker"] for name, labels in found.values if name == measure.prometheus_name}
            assert named == {"pool", "single"}, measure.name


def test_the_duration_of_calls_is_a_histogram(single: Reranker) -> None:
    single.score([("panda", "bear")])
    with served(PrometheusCollector({"main": single})) as scrape:
        found, stats = scrape(), single.stats()
    label = {"reranker": "main", "outcome": "ok"}
    name = "flag_rerank_call_duration_seconds"
    assert found.kinds[name] == "histogram"
    assert found.one(f"{name}_count", **label) == stats.call_seconds["ok"].count
    assert found.one(f"{name}_sum", **label) == pytest.approx(stats.call_seconds["ok"].seconds)
    cumulated = [found.one(f"{name}_bucket", le=str(bound), **label) for bound in CALL_SECONDS_BOUNDS]
    cumulated.append(found.one(f"{name}_bucket", le="+Inf", **label))
    assert cumulated == sorted(cumulated)
    assert cumulated[-1] == found.one(f"{name}_count", **label)
    assert found.one(f"{name}_count", reranker="main", outcome="cancelled") == 0


def test_names_and_units_follow_the_conventions(single: Reranker) -> None:
    with served(PrometheusCollector({"main": single})) as scrape:
        text, openmetrics = scrape(), scrape(openmetrics=True)
    assert len(text.kinds) == len(MEASURES) + 1
    for measure in MEASURES:
        name = measure.prometheus_name
        assert re.fullmatch(r"flag_rerank_[a-z_]+", name)
        assert name.endswith("_total") == (measure.kind == "counter")
        assert measure.description.endswith(".")
        # The text format names a counter's family with its ending, as OpenMetrics does without.
        assert text.kinds[name.removesuffix("_total")] == measure.kind
        assert openmetrics.kinds[name.removesuffix("_total")] == measure.kind
    assert "flag_rerank_call_duration_seconds" in openmetrics.kinds
    assert text.names == openmetrics.names


def test_two_workers_on_one_device_are_two_rows(pool: Reranker) -> None:
    pool.score([("panda", f"bear {number} " * 40) for number in range(200)])
    with served(PrometheusCollector({"main": pool})) as scrape:
        found, stats = scrape(), pool.stats()
    rows = {("cpu", "0"), ("cpu", "1")}
    assert set(found["flag_rerank_worker_up"].values()) == {1.0}
    for name in ("free", "used", "peak", "size"):
        values = found[f"flag_rerank_device_memory_{name}_bytes"]
        assert set(values) == rows
        assert all(value > 1 << 20 for value in values.values())
    used = found["flag_rerank_device_memory_used_bytes"]
    assert [used["cpu", str(number)] for number in range(2)] == [device.used_memory for device in stats.devices]
    assert found["flag_rerank_device_utilization_ratio"] == {}


def test_counters_never_go_down_while_workers_are_killed(pool: Reranker) -> None:
    pairs = [("panda", f"giant bear {number} " * 10) for number in range(60)]
    scrapes: list[Scrape] = []
    with served(PrometheusCollector({"main": pool})) as scrape:
        for _ in range(3):
            restarts = pool.stats().worker_restarts
            pool.score(pairs)
            scrapes.append(scrape())
            os.kill(pids(pool)[0], 9)

            def looked(restarts: int = restarts) -> bool:
                scrapes.append(scrape())
                return pool.stats().worker_restarts > restarts

            until(looked)
        pool.score(pairs)
        scrapes.append(scrape())
    assert len(scrapes) > 10
    for earlier, later in pairwise(scrapes):
        for series, value in earlier.counted().items():
            assert later.values[series] >= value, series
    assert scrapes[-1].one("flag_rerank_worker_restarts_total", reranker="main") >= 3
    down = [row for found in scrapes for row in found["flag_rerank_worker_up"].values()]
    assert 0.0 in down


def test_a_server_is_watched_too(serve: Serve) -> None:
    with asking(serve("infinity")) as remote, served(PrometheusCollector({"served": remote})) as scrape:
        remote.rank("panda", ["bear", "bamboo"])
        found, stats = scrape(), remote.stats()
    assert found.one("flag_rerank_http_requests_total", reranker="served") == stats.requests > 0
    assert found.one("flag_rerank_http_retries_total", reranker="served") == 0
    assert found.one("flag_rerank_scored_pairs_total", reranker="served") == 2


def test_rerankers_come_and_go(single: Reranker, pool: Reranker) -> None:
    collector = PrometheusCollector({"first": single})
    with served(collector) as scrape:
        collector.add("second", pool)
        assert {dict(labels)["reranker"] for _, labels in scrape().values} == {"first", "second"}
        collector.remove("first")
        assert {dict(labels)["reranker"] for _, labels in scrape().values} == {"second"}
        collector.remove("second")
        assert scrape().values == {}
    with pytest.raises(ConfigError, match="no reranker of the name 'first'; there is none"):
        collector.remove("first")


def test_wrong_sources_are_refused(single: Reranker) -> None:
    with pytest.raises(ConfigError, match="must be a mapping"):
        PrometheusCollector(single)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not empty, not ''"):
        PrometheusCollector({"": single})
    with pytest.raises(ConfigError, match=r"'main' must be a reranker with stats\(\), not str"):
        PrometheusCollector({"main": "quickstart"})  # type: ignore[dict-item]
    collector = PrometheusCollector({"main": single})
    with pytest.raises(ConfigError, match="of the name 'main' already"):
        collector.add("main", single)


def test_a_registry_notices_names_that_are_taken(single: Reranker) -> None:
    registry = CollectorRegistry()
    Counter("flag_rerank_pairs", "Somebody else's.", registry=registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(PrometheusCollector({"main": single}))


def expressions(node: Any) -> Iterator[str]:
    """Find every query of a dashboard, in panels and variables."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("expr", "query", "definition") and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value)


def test_the_dashboard_asks_for_metrics_that_exist(single: Reranker, serve: Serve) -> None:
    with asking(serve("infinity")) as remote:
        collector = PrometheusCollector({"local": single, "served": remote})
        with served(collector) as scrape:
            found = scrape()
    asked = {name for text in expressions(json.loads(DASHBOARD.read_text())) for name in re.findall(r"flag_\w+", text)}
    assert asked - found.names == OF_ACCELERATORS
    assert {name for name in OF_ACCELERATORS if name in found.kinds} == OF_ACCELERATORS
    assert len(asked) > 20


def queries() -> list[tuple[str, str]]:
    """Every query of the dashboard's panels with its legend, and those of the alerts of docs/monitoring.md."""
    targets = [target for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel.get("targets", ())]
    alerts = re.findall(r"^  expr: (.+)$", (DOCS / "monitoring.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(targets) > 30
    assert len(alerts) == 4
    return [(target["expr"], target["legendFormat"]) for target in targets] + [(alert, "") for alert in alerts]


def test_queries_name_labels_that_their_metrics_have(single: Reranker, serve: Serve) -> None:
    with asking(serve("infinity")) as remote, served(PrometheusCollector({"one": single, "two": remote})) as scrape:
        found = scrape()
    known = {name: {"reranker", "worker", "device"} for name in OF_ACCELERATORS}
    for name, labels in found.values:
        known.setdefault(name, set()).update(dict(labels))
    for query, legend in queries():
        selected = re.findall(r"(\w+)(?:=~|!~|!=|=)\"", query)
        grouped = [label for names in re.findall(r"\bby \(([^)]*)\)", query) for label in names.split(", ")]
        shown = set(re.findall(r"{{(\w+)}}", legend))
        for name in re.findall(r"flag_rerank_\w+", query):
            assert {*selected, *grouped, *shown} <= known[name], query
        assert not grouped or shown <= set(grouped), f"aggregated away, so the legend would be empty: {query}"


def test_the_dashboard_can_be_imported() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["datasource"]["uid"] == "${datasource}"
            assert all("${" not in target["expr"].replace("${reranker}", "") for target in panel["targets"])
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {"datasource", "reranker"}
    assert dashboard["id"] is None
