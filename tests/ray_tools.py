"""A real Ray on this machine for the tests, and drivers of their own that join it."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster


@contextmanager
def running_cluster(**head: Any) -> Iterator[Cluster]:
    """A head node with these resources, which this process is connected to."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        made = Cluster(initialize_head=True, head_node_args={**head, "include_dashboard": False})
        made.connect()
        yield made
        ray.shutdown()
        made.shutdown()


def processes_of(actor: str) -> set[int]:
    """Process ids of all living actors whose class has this name, in the cluster this process is connected to."""
    import ray

    session, found = ray.get_runtime_context().get_session_name(), set()
    for process in psutil.process_iter(["cmdline"]):
        if f"ray::{actor}" in " ".join(process.info["cmdline"] or []):
            with suppress(psutil.NoSuchProcess):  # a cluster of somebody else's has another session
                parent = process.parent()
                mine = parent is not None and session in " ".join(parent.cmdline())
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.add(process.pid)
    return found


def script(code: str, **names: str) -> list[str]:
    """The command that runs some code in a process of its own, with these names replaced by texts."""
    code = textwrap.dedent(code)
    for name, text in names.items():
        code = code.replace(name, repr(text))
    return [sys.executable, "-c", code]


def surroundings(cluster: Cluster | None) -> dict[str, str]:
    """Environment of a driver: RAY_ADDRESS is how it finds its cluster, or that it wants one to itself."""
    return {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ADDRESS": cluster.address if cluster else "local"}
