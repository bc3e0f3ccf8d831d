"""Holding workers, waiting for other threads, and scraping over real HTTP."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.monitoring.prometheus import PrometheusCollector

Series = tuple[str, frozenset[tuple[str, str]]]
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def until(happened: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


@contextmanager
def held(reranker: Reranker) -> Iterator[threading.Event]:
    """Have the one worker of this process wait in front of every forward pass; the event says that it does."""
    family = reranker._executor._scorer._family  # type: ignore[union-attr]
    launch, entered, gate = family.launch, threading.Event(), threading.Event()

    def wait_and_launch(batch: Any) -> Any:
        entered.set()
        gate.wait(60)
        return launch(batch)

    family.launch = wait_and_launch
    try:
        yield entered
    finally:
        gate.set()
        family.launch = launch


def pids(pool: Reranker) -> list[int]:
    executor: Any = pool._executor
    return [dispatcher.worker.pid for dispatcher in executor._pool.dispatchers]


@contextmanager
def stopped(pool: Reranker) -> Iterator[None]:
    """Have the workers of a pool stand still."""
    processes = pids(pool)
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)


class Scrape:
    """What a server exports at one moment."""

    def __init__(self, text: str, *, openmetrics: bool = False) -> None:
        self.text = text
        families = list(parse_openmetrics(text) if openmetrics else text_string_to_metric_families(text))
        self.kinds = {family.name: family.type for family in families}
        samples = [sample for family in families for sample in family.samples]
        self.values: dict[Series, float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value for sample in samples
        }
        assert len(self.values) == len(samples)  # a series that occurs twice would fail a real scrape
        self.names = {sample.name for sample in samples}

    def __getitem__(self, name: str) -> dict[tuple[str, ...], float]:
        """Return the values of a metric by those of its labels, which are sorted by name, without `reranker`."""
        return {
            tuple(value for label, value in sorted(labels) if label != "reranker"): number
            for (found, labels), number in self.values.items()
            if found == name
        }

    def one(self, name: str, **labels: str) -> float:
        return self.values[name, frozenset(labels.items())]

    def counted(self) -> dict[Series, float]:
        """Return what may never become less."""
        endings = ("_total", "_bucket", "_count", "_sum")
        return {series: value for series, value in self.values.items() if series[0].endswith(endings)}


@contextmanager
def served(collector: PrometheusCollector) -> Iterator[Callable[..., Scrape]]:
    """Serve a collector as an application does; yields what scrapes it."""
    registry = CollectorRegistry()
    registry.register(collector)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)

    def scrape(*, openmetrics: bool = False) -> Scrape:
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        request = Request(url, headers={"Accept": OPENMETRICS} if openmetrics else {})
        with urlopen(request, timeout=30) as answer:  # noqa: S310 - as above
            return Scrape(answer.read().decode(), openmetrics=openmetrics)

    try:
        yield scrape
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
