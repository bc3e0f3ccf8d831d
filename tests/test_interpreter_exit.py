"""The end of the interpreter in the middle of things: nothing waits for ever or crashes, and the last calls work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import TinyModels

# What is registered before any import runs after all that the package itself does at the exit.
IN_A_CALL = """
import atexit, sys, threading, time

def look():
    print("left:", [thread.name for thread in threading.enumerate() if thread.name.startswith("flag-rerank")])

atexit.register(look)
from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import WorkerError

reranker = Reranker(sys.argv[1], device="cpu", max_length=64, max_batch_tokens=512)
pairs = [("giant panda", "bear in China " * (i % 9 + 1) + str(i)) for i in range(400)]
reranker.score(pairs[:40])
print("lanes:", sum("lane" in thread.name for thread in threading.enumerate()))

def ask():
    try:
        while True:
            reranker.score(pairs)
    except WorkerError:
        pass

threading.Thread(target=ask, daemon=True).start()
before = reranker.stats().scored_pairs
while reranker.stats().scored_pairs == before:
    time.sleep(0.001)
"""

AT_THE_EXIT = """
import atexit, sys
from flag_rerank_integrations import Reranker

reranker = Reranker(sys.argv[1], device="cpu", max_length=64)
passages = [f"giant panda {number}" for number in range(20)]
before = reranker.rank("panda", passages)

@atexit.register
def last():
    print(reranker.rank("panda", passages) == before)
"""

AHEAD_AT_THE_EXIT = """
import atexit
from flag_rerank_integrations.encoding_ahead import encoded_ahead

@atexit.register
def last():
    print(list(encoded_ahead(str, [1, 2, 3])))
"""


def output_of(code: str, *arguments: str) -> list[str]:
    """Run a program with two threads of torch; return its lines, once it is sure that it ended well and in silence."""
    root = Path(__file__).parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="lanes need Linux")
def test_an_exit_in_the_middle_of_a_call_ends_the_worker_and_its_lanes(tiny: TinyModels) -> None:
    assert output_of(IN_A_CALL, tiny("bert")) == ["lanes: 2", "left: []"]


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_reranker_serves_the_last_calls_of_a_program(tiny: TinyModels, light: str, kind: str) -> None:
    assert output_of(AT_THE_EXIT, light if kind == "onnx" else tiny("bert")) == ["True"]


def test_portions_are_encoded_when_no_pool_takes_tasks_any_more() -> None:
    assert output_of(AHEAD_AT_THE_EXIT) == ["['1', '2', '3']"]
