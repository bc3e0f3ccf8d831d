"""Small real models, built once a session: real architectures and tokenizers, random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import SPECS, build


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Directories of small checkpoints by architecture, built when first asked for."""
    return TinyModels(tmp_path_factory.mktemp("models"))


class TinyModels:
    """Builds each checkpoint once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, name: str) -> str:
        path = self._root / name
        if not path.exists():
            build(SPECS[name], path)
        return str(path)
