"""How a module of this package is started as a process of its own: nothing lying about can shadow anything."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["importable", "module_command"]

_ROOT: Final = str(Path(__file__).resolve().parents[2])


def module_command(module: str) -> list[str]:
    """Return what starts a module, and nothing that lies about in the current directory.

    Args:
        module: Its full name. It is to be started in an environment that `importable` made.
    """
    if sys.version_info >= (3, 11):
        return [sys.executable, "-m", module]  # with PYTHONSAFEPATH, which Python 3.10 does not know
    run = f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return [sys.executable, "-c", f"import sys; sys.path.pop(0); {run}"]


def importable(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which this package is found where this process found it.

    The current directory must not shadow anything, which `python -m` would have it do.
    """
    path = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), _ROOT]))
    return {**environment, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
