"""What is asked for without its extra is one error of this package, which names it; on the command line, one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from judged_data import write_folder

HIDDEN = ("bm25s", "httpx", "ir_measures", "langchain_core", "llama_index", "matplotlib", "opentelemetry")
HIDDEN += ("prometheus_client", "pytest", "ray")
HIDE = f"import sys\nfor name in {HIDDEN}: sys.modules[name] = None\n"

USES = {
    "langchain": "import flag_rerank_integrations.langchain",
    "llama-index": "import flag_rerank_integrations.llama_index",
    "testing": "import flag_rerank_integrations.testing",
    "remote": "flag_rerank_integrations.RemoteReranker('http://localhost:9', form='tei')",
    "ray": "flag_rerank_integrations.Reranker('any', device='ray:1')",
    "bench": "from flag_rerank_integrations.bench import plot; plot.check()",
    "eval": "from flag_rerank_integrations import evaluation; evaluation.values_by_query(['RR'], {}, {})",
    "eval, for BM25": (
        "from flag_rerank_integrations import evaluation; "
        "evaluation.bm25_run(evaluation.JudgedSet({'1': 'a'}, {'2': 'word'}, {'1': {'2': 1}}), 3)"
    ),
    "monitoring": "from flag_rerank_integrations.monitoring import PrometheusCollector as p; p({})",
    "monitoring, by OpenTelemetry": "from flag_rerank_integrations.monitoring import OpenTelemetryMetrics as o; o({})",
}


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    """What each use raises in a process that has none of the libraries."""
    code = f"""{HIDE}
import flag_rerank_integrations
from flag_rerank_integrations.errors import RerankError
for extra, use in {USES!r}.items():
    try:
        exec(use)
    except RerankError as error:
        print(extra, isinstance(error, ImportError), error, sep="\\t")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return dict(line.split("\t", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("use", USES)
def test_the_error_is_ours_and_names_the_extra(told: dict[str, str], use: str) -> None:
    is_import_error, message = told[use].split("\t")
    assert is_import_error == "True"
    assert f"pip install 'flag-rerank-integrations[{use.partition(',')[0]}]'" in message


@pytest.mark.parametrize(
    "arguments, extra",
    [
        (["bench", "--qrels", "FOLDER"], "eval"),
        (["bench", "--out", "FOLDER"], "bench"),
        (["eval", "FOLDER"], "eval"),
        (["rank", "-q", "any", "FOLDER/corpus.jsonl", "--device", "ray:2"], "ray"),
        (["rank", "-q", "any", "FOLDER/corpus.jsonl", "--url", "http://localhost:9"], "remote"),
        (["demo"], "demo"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_commands_end_as_with_any_other_mistake(tmp_path: Path, arguments: list[str], extra: str) -> None:
    folder = str(write_folder(tmp_path / "small"))
    given = [argument.replace("FOLDER", folder) for argument in arguments]
    code = f"{HIDE}from flag_rerank_integrations.cli import main\nsys.exit(main({given!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("flag-rerank: ")
    assert done.stderr.count("\n") == 1
    assert f"pip install 'flag-rerank-integrations[{extra}]'" in done.stderr


def test_what_else_is_missing_is_not_hidden() -> None:
    code = """
import sys
from flag_rerank_integrations import cli
sys.modules["flag_rerank_integrations.demo.corpus"] = None  # a file of the package itself
sys.exit(cli.main(["bench"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
