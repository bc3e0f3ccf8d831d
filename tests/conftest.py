"""Small real models, built once a session: real architectures and tokenizers, random weights."""

from __future__ import annotations

import pytest
from layered_models import LayeredModels
from tiny_models import TinyModels


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Directories of small checkpoints by architecture, built when first asked for."""
    return TinyModels(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def layered(tmp_path_factory: pytest.TempPathFactory) -> LayeredModels:
    """Directories of small layerwise and lightweight checkpoints, built when first asked for."""
    return LayeredModels(tmp_path_factory.mktemp("layered"))
