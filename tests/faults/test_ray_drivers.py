"""Drivers of a Ray pool are interrupted, end, are killed, or lose Ray itself: their actors end with them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest
from faults.pool_tools import gone, wait_until
from ray.cluster_utils import Cluster
from ray_tools import processes_of, running_cluster, script, surroundings

START = """
import os, signal, threading, time
import ray
from flag_rerank_integrations import Reranker
busy = [(f"panda {i}", "bear " * 20) for i in range(600)]
r = Reranker("quickstart", device="ray:2")
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster(num_cpus=2) as made:
        yield made


def drive(code: str, cluster: Cluster | None) -> list[str]:
    """Run a driver to its end, which must be a good one, and return the words it printed."""
    answer = subprocess.run(
        script(code), env=surroundings(cluster), capture_output=True, text=True, timeout=110, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.split()


def test_ctrl_c_in_the_middle_then_reuse(cluster: Cluster) -> None:
    code = """
threading.Timer(0.5, lambda: os.killpg(0, signal.SIGINT)).start()
os.setpgid(0, 0)
try:
    r.score(busy)
    print("finished")
except KeyboardInterrupt:
    print("interrupted")
print(len(r.score([("a", "b")])))
"""
    assert drive(START + code, cluster) == ["interrupted", "1"]


def test_an_exit_with_work_in_hand(cluster: Cluster) -> None:
    """A script ends while a thread of its own waits for scores: it ends, and so do the workers."""
    code = """
threading.Thread(target=lambda: r.score(busy), daemon=True).start()
time.sleep(0.5)
print("bye")
"""
    assert drive(START + code, cluster) == ["bye"]
    wait_until(lambda: not processes_of("RerankActor"), 10)


def test_a_killed_driver_leaves_no_orphan(cluster: Cluster) -> None:
    code = """
print(*[d.worker.pid for d in r._executor._pool.dispatchers], flush=True)
r.score(busy)
"""
    driver = subprocess.Popen(script(START + code), env=surroundings(cluster), stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    workers = [int(pid) for pid in driver.stdout.readline().split()]
    assert len(workers) == 2
    time.sleep(0.5)
    driver.kill()
    driver.wait()
    driver.stdout.close()
    wait_until(lambda: all(map(gone, workers)), 10)


def test_somebody_else_shuts_ray_down(cluster: Cluster) -> None:
    """Nothing connects again until there is work to do; then whoever gets some does."""
    code = """
ray.shutdown()
time.sleep(1)
print(ray.is_initialized(), len(r.score(busy[:50])))
print(ray.is_initialized(), r.stats().worker_restarts > 0)
"""
    assert drive(START + code, cluster) == ["False", "50", "True", "True"]


def test_a_ray_of_its_own_is_started_and_left_alone() -> None:
    """Closing a Reranker ends its workers, and leaves Ray to whoever else may use it; it ends with the process."""
    code = """
print(*[d.worker.pid for d in r._executor._pool.dispatchers], len(r.score(busy[:1])))
r.close()
print(ray.is_initialized())
"""
    *workers, scores, connected = drive(START + code, None)
    assert (len(workers), scores, connected) == (2, "1", "True")
    wait_until(lambda: all(gone(int(pid)) for pid in workers), 10)
