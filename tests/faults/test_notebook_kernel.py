"""A pool in the cell of a notebook: a real kernel, whose main module no child could import."""

from __future__ import annotations

import textwrap
from pathlib import Path

import nbformat
import pytest
from faults.pool_tools import gone, wait_until
from nbclient import NotebookClient

CELLS = [
    """
    from flag_rerank_integrations import Reranker
    reranker = Reranker(MODEL, device="cpu:2")
    pids = [dispatcher.worker.pid for dispatcher in reranker._executor._pool.dispatchers]
    print(len(reranker.score([("panda", f"bear {i}") for i in range(50)])), *pids)
    """,
    """
    print(len(await reranker.arank("panda", ["bear", "city"])))  # a cell runs inside an event loop
    """,
    """
    import os
    os.kill(pids[0], 9)
    print(len(reranker.score([("panda", f"bear {i}") for i in range(50)])))
    """,
]


def test_start_from_a_notebook_kernel(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    cells = [nbformat.v4.new_code_cell(textwrap.dedent(cell).replace("MODEL", repr(model))) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
    printed = [
        "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")
        for cell in notebook.cells
    ]
    first, *workers = printed[0].split()
    assert (first, *map(str.strip, printed[1:])) == ("50", "2", "50")
    wait_until(lambda: all(gone(int(pid)) for pid in workers), 10)  # they ended with their kernel
