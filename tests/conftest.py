"""Small real models, built once a session: real architectures and tokenizers, random weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from layered_models import LayeredModels
from rerank_server import Serve, servers
from tiny_models import TinyModels

from flag_rerank_integrations import Reranker


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Directories of small checkpoints by architecture, built when first asked for."""
    return TinyModels(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def layered(tmp_path_factory: pytest.TempPathFactory) -> LayeredModels:
    """Directories of small layerwise and lightweight checkpoints, built when first asked for."""
    return LayeredModels(tmp_path_factory.mktemp("layered"))


@pytest.fixture(scope="session")
def light(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of a model whose workers start in under a second; see `light_model`."""
    import light_model  # its own imports are paid only where it is used

    return light_model.write(tmp_path_factory.mktemp("light") / "model")


@pytest.fixture(scope="module")
def local(tiny: TinyModels) -> Iterator[Reranker]:
    """The model behind the rerank servers, in this process."""
    with Reranker(tiny("bert"), device="cpu", max_length=64) as live:
        yield live


@pytest.fixture
def serve(local: Reranker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts rerank servers with `local` behind them; see `rerank_server`."""
    with servers(local, monkeypatch) as start:
        yield start
