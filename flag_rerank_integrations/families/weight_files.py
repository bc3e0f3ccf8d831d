"""Which file holds a checkpoint's weights, and whether it is whole: told before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.errors import ModelLoadError

__all__ = ["PICKLES", "check_weight_files", "pickle_error", "some", "stored_shapes"]

PICKLES: Final = ("pytorch_model*.bin", "adapter_model.bin")
_SHOWN: Final = 3
_LENGTH_BYTES: Final = 8
_LONGEST_HEADER: Final = 100_000_000  # as in the format's own reader
_AGAIN: Final = "Fetch it again: the download was broken off, or the copy is damaged"


def check_weight_files(directory: Path, config: RerankConfig, stem: str = "model") -> bool:
    """Make sure that the weights are all there, whole, and no pickle.

    Args:
        directory: The checkpoint.
        config: Names it, and says whether a pickle may be read.
        stem: Name of the weights without its ending.

    Returns:
        True for safetensors, False for a pickle that may be read.

    Raises:
        ModelLoadError: A file is missing, cut short or broken, or only a pickle is there.
    """
    single, index = directory / f"{stem}.safetensors", directory / f"{stem}.safetensors.index.json"
    if _is_there(single):
        stored_shapes(single)
    elif index.is_file():
        _check_shards(index)
    else:
        return _without_safetensors(directory, config, single.name)
    return True


def stored_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Read the names and shapes in a safetensors file off its header, and check that the file ends where it should.

    Raises:
        ModelLoadError: It is missing, cut short or broken.
    """
    if not file.is_file():
        kind = "links to a file that is not there" if file.is_symlink() else "is missing"
        _refuse(f"{str(file)!r} {kind}.")
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or length > min(_LONGEST_HEADER, size - _LENGTH_BYTES):
            _refuse(f"{str(file)!r} has {size:,} bytes and is no whole safetensors file.")
        try:
            header = json.loads(stream.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
            end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            _refuse(f"{str(file)!r} has a broken header ({type(error).__name__}: {error}).")
    expected = _LENGTH_BYTES + length + end
    if size != expected:
        _refuse(f"{str(file)!r} has {size:,} bytes instead of {expected:,}.")
    return shapes


def pickle_error(config: RerankConfig, file: str) -> ModelLoadError:
    """Return the refusal of a checkpoint whose weights are only there as a pickle."""
    return ModelLoadError(
        f"{config.model!r} has its weights only as a pickle ({file}). Reading one can run whatever code its author put "
        f"there, and torch's weights_only mode has been defeated twice (CVE-2025-32434, CVE-2026-24747). "
        f"Use a revision with safetensors, or convert it; if you trust its author, set allow_pickle=True."
    )


def some(names: Sequence[str]) -> str:
    """Name the first few of what is missing or wrong."""
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _is_there(file: Path) -> bool:
    """Tell whether a file is there, be it only as a link to nothing."""
    return file.is_file() or file.is_symlink()


def _check_shards(index: Path) -> None:
    """Make sure that every shard is there and whole, and that they hold what the index says."""
    try:
        places: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted({str(name) for name in places.values()})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        _refuse(f"{str(index)!r} is no index of shards ({type(error).__name__}: {error}).")
    stored: set[str] = set()
    for name in files:
        stored.update(stored_shapes(index.parent / name))
    missing = sorted(set(places) - stored)
    if missing:
        _refuse(f"{str(index)!r} names weights that none of its {len(files)} shards has: {some(missing)}.")


def _without_safetensors(directory: Path, config: RerankConfig, expected: str) -> bool:
    pickled = sorted(file.name for pattern in PICKLES for file in directory.glob(pattern))
    if pickled and config.allow_pickle:
        return False
    if pickled:
        raise pickle_error(config, pickled[0])
    shards = sorted(file.name for file in directory.glob("*-of-*.safetensors"))
    if shards:
        _refuse(f"{config.model!r} has shards such as {shards[0]}, but no {expected}.index.json that lists them.")
    msg = f"{config.model!r} has no {expected} in {str(directory)!r}: nothing to load, or an incomplete download."
    raise ModelLoadError(msg)


def _refuse(said: str) -> NoReturn:
    msg = f"{said} {_AGAIN}."
    raise ModelLoadError(msg)
