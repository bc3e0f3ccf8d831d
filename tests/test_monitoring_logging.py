"""Silent by default; to those who configure logging everything is said once, under this package's loggers."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap

import pytest

from flag_rerank_integrations import Reranker

LONG = "giant panda bear in China " * 100
CALLS = """
import logging, sys
from flag_rerank_integrations import Reranker
{configured}
if __name__ == "__main__":
    with Reranker(sys.argv[1], device={device!r}, max_length=16) as reranker:
        for _ in range(2):
            reranker.rank("panda " * 40, ["bear " * 100, ""])
    print("done", [type(handler).__name__ for handler in logging.getLogger("flag_rerank_integrations").handlers])
    print("root", logging.getLogger().handlers, logging.getLogger().level)
"""


def run(model: str, device: str, configured: str = "") -> subprocess.CompletedProcess[str]:
    code = textwrap.dedent(CALLS).format(device=device, configured=configured)
    return subprocess.run(
        [sys.executable, "-c", code, model], capture_output=True, text=True, check=True, env={**os.environ}
    )


@pytest.mark.parametrize("device", ["cpu", "cpu:2"])
def test_nothing_is_printed_and_nothing_is_configured_by_itself(light: str, device: str) -> None:
    finished = run(light, device)
    assert finished.stderr == ""
    assert finished.stdout.splitlines() == ["done ['NullHandler']", "root [] 30"]


@pytest.mark.parametrize("device", ["cpu", "cpu:2"])
def test_whoever_configures_logging_hears_of_truncation_once_a_call(light: str, device: str) -> None:
    finished = run(light, device, "logging.basicConfig(format='%(levelname)s %(name)s: %(message)s')")
    lines = finished.stderr.splitlines()
    truncated = [line for line in lines if "1 of 2 passages are longer than fits" in line]
    assert len(truncated) == 2
    assert all(line.startswith("WARNING flag_rerank_integrations.truncation: ") for line in truncated)
    assert sum("1 of 2 passages are empty" in line for line in lines) == 2
    # What the scorer says comes from the worker, and is said once by each that a call went to.
    queries = [line for line in lines if "The query" in line]
    assert 1 <= len(queries) <= 2
    named = [line for line in queries if "[cpu #1] " in line or "[cpu #2] " in line]
    assert named == (queries if device == "cpu:2" else [])
    assert all(line.startswith("WARNING flag_rerank_integrations.truncation: ") for line in queries)


def test_workers_say_what_the_parent_wants_to_hear(light: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "flag_rerank_integrations"), Reranker(light, device="cpu:2") as pool:
        pool.score([("panda", "bear")])
    told = [record for record in caplog.records if record.getMessage().startswith("[cpu #")]
    assert {record.getMessage().partition("] ")[0] for record in told} == {"[cpu #1", "[cpu #2"}
    assert {record.levelno for record in told} & {logging.DEBUG, logging.INFO}
    assert all(record.name.startswith("flag_rerank_integrations.") for record in told)
    caplog.clear()
    with caplog.at_level(logging.ERROR, "flag_rerank_integrations"), Reranker(light, device="cpu:2") as pool:
        pool.score([("panda " * 500, "bear")])
    assert caplog.records == []


def test_a_worker_tells_the_trace_of_an_exception_that_it_logs(capfd: pytest.CaptureFixture[str]) -> None:
    code = """
        import io, logging
        from flag_rerank_integrations.executors import _child
        from flag_rerank_integrations.executors.frames import read_frame
        sent = io.BytesIO()
        _child.forward_log(_child._Outbox(sent), logging.INFO)
        try:
            1 / 0
        except ZeroDivisionError:
            logging.getLogger("flag_rerank_integrations.somewhere").info("It %s.", "failed", exc_info=True)
        logging.getLogger("flag_rerank_integrations.somewhere").debug("Nobody wants to hear this.")
        sent.seek(0)
        message = read_frame(sent)
        assert message["logger"] == "flag_rerank_integrations.somewhere", message
        assert message["log"].startswith("It failed.") and "ZeroDivisionError" in message["log"], message
        assert read_frame(sent) is None
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
    assert capfd.readouterr().err == ""
