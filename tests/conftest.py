"""Small real models, built once a session: real architectures and tokenizers, random weights."""

from __future__ import annotations

import pytest
from tiny_models import TinyModels


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Directories of small checkpoints by architecture, built when first asked for."""
    return TinyModels(tmp_path_factory.mktemp("models"))
