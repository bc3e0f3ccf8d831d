"""Without the extra everything works but what needs it, and that says which extra it is."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from prometheus_client import metrics_core

from flag_rerank_integrations.monitoring.sources import missing_extra

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("prometheus_client", "opentelemetry", "pynvml"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""
USE = """
from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import ConfigError
from flag_rerank_integrations.monitoring import OpenTelemetryMetrics, PrometheusCollector, capture_texts
from flag_rerank_integrations.monitoring import nvml

with Reranker(sys.argv[1], device="cpu") as reranker:
    assert len(reranker.rank("panda", ["bear", "bamboo"])) == 2
    assert reranker.stats().calls == 1
    for exporter in (PrometheusCollector, OpenTelemetryMetrics):
        try:
            exporter({"main": reranker})
        except ConfigError as error:
            print(error)
assert nvml.readings() == []
"""
QUIET = """
import flag_rerank_integrations.base_reranker, flag_rerank_integrations.monitoring.calls
found = {name.split(".")[0] for name in sys.modules} & {"prometheus_client", "opentelemetry", "pynvml", "torch"}
print(sorted(found))
"""


def run(code: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


def test_a_missing_extra_is_one_clear_error_and_nothing_else_suffers(light: str) -> None:
    told = run(BLOCKED + USE, light)
    assert told == [
        "PrometheusCollector needs prometheus_client: pip install 'flag-rerank-integrations[monitoring]'",
        "OpenTelemetryMetrics needs opentelemetry: pip install 'flag-rerank-integrations[monitoring]'",
    ]


def test_calls_import_none_of_the_libraries() -> None:
    assert run("import sys\n" + QUIET) == ["[]"]


def test_another_missing_module_is_not_taken_for_the_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match="nothing of ours"):
        missing_extra(type(metrics_core), ModuleNotFoundError("nothing of ours", name="numpy"))
