"""Execute the notebooks' sources, and write each with its outputs beside it.

    python scripts/notebooks.py           # all of them
    python scripts/notebooks.py 03 07     # those whose names begin so

A notebook is written as notebooks/NN_name.py, in jupytext's percent format, and committed together with
the executed notebooks/NN_name.ipynb. What says nothing of the content is left out of that one (versions,
random cell ids, times of execution), so that running this again gives small diffs.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
SECONDS_A_CELL = 120
# A Ray of its own for whoever wants one; and no advice about widgets, which no page could show.
ENVIRONMENT = {"RAY_ADDRESS": "local", "PYTHONWARNINGS": "ignore:IProgress not found"}
# The kernel warns of its own transport; and what native code writes (Ray's) belongs to a terminal, not to a page.
KERNEL = ["--IPKernelApp.log_level=40", "--IPKernelApp.capture_fd_output=False"]
METADATA = {
    "jupytext": {"formats": "ipynb,py:percent"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "pygments_lexer": "ipython3",
    },
}


def sources() -> list[Path]:
    """Return the percent sources of all notebooks, in order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))


def read(source: Path) -> Any:  # noqa: ANN401 - a NotebookNode
    """Return a percent source as a notebook without outputs."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02}"
        cell.metadata = {}
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def execute(notebook: Any) -> Any:  # noqa: ANN401 - a NotebookNode
    """Run all cells, in a new kernel and an empty directory; return the notebook with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell raised.
        nbclient.exceptions.CellTimeoutError: A cell took more than two minutes.
    """
    with tempfile.TemporaryDirectory() as directory:
        client = NotebookClient(
            notebook,
            timeout=SECONDS_A_CELL,
            resources={"metadata": {"path": directory}},
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=KERNEL,
        )
        client.execute(cwd=directory, env={**os.environ, **ENVIRONMENT})
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def main() -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description="Execute notebooks/*.py into notebooks/*.ipynb.")
    parser.add_argument("names", nargs="*", help="how the names of those to execute begin; by default all")
    names = tuple(parser.parse_args().names)
    for source in sources():
        if names and not source.name.startswith(names):
            continue
        start = time.perf_counter()
        nbformat.write(execute(read(source)), source.with_suffix(".ipynb"))
        size = source.with_suffix(".ipynb").stat().st_size
        print(f"{source.stem}: {time.perf_counter() - start:.0f} s, {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
