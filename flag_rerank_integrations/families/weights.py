"""Reading some of a checkpoint's weights, and only those, into the data type and device they will run on."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import DeviceError, ModelLoadError
from flag_rerank_integrations.families.checkpoint import Checkpoint
from flag_rerank_integrations.families.weight_files import check_weight_files

__all__ = ["WeightFiles"]

_SHOWN: Final = 3


class WeightFiles:
    """A checkpoint's safetensors files, one or many, and the tensors in them.

    Args:
        checkpoint: Where they lie.
        config: Names the model in messages.

    Raises:
        ModelLoadError: There are none, one that the index names is missing, or one cannot be read.
    """

    def __init__(self, checkpoint: Checkpoint, config: RerankConfig) -> None:
        if not check_weight_files(checkpoint.path, config):
            msg = f"{config.model!r} has its weights as a pickle; this family reads its layers from safetensors only."
            raise ModelLoadError(msg)
        self._model = config.model
        self._path = checkpoint.path
        self._check_index()
        self._files: dict[str, Path] = {}
        for path in sorted(checkpoint.path.glob("*.safetensors")):
            with self._open(path, "cpu") as file:
                self._files.update(dict.fromkeys(file.keys(), path))

    @property
    def names(self) -> Collection[str]:
        """The names of all tensors."""
        return self._files.keys()

    def read(
        self, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, device: Device
    ) -> dict[str, torch.Tensor]:
        """Read tensors by name.

        Args:
            shapes: The names, and the shape that each must have.
            dtype: What to read them as.
            device: Where to.

        Raises:
            ModelLoadError: Some are missing or have another shape, or a file is broken.
            DeviceError: The device has too little memory.
        """
        self._check_names(shapes)
        by_file = defaultdict(list)
        for name in shapes:
            by_file[self._files[name]].append(name)
        tensors = {}
        try:
            for path, names in by_file.items():
                with self._open(path, str(device)) as file:
                    for name in names:
                        self._check_shape(name, tuple(file.get_slice(name).get_shape()), shapes[name])
                        tensors[name] = file.get_tensor(name).to(dtype)
        except torch.OutOfMemoryError as error:
            msg = f"{self._model!r} does not fit into the free memory of {device}. Choose another device or dtype."
            raise DeviceError(msg) from error
        return tensors

    def _check_index(self) -> None:
        """Refuse a checkpoint whose index names files that are not there."""
        index = self._path / "model.safetensors.index.json"
        if not index.is_file():
            return
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            msg = f"{index.name} of {self._model!r} cannot be read ({type(error).__name__}: {error})."
            raise ModelLoadError(msg) from error
        missing = sorted(str(name) for name in named if not (self._path / str(name)).is_file())
        if missing:
            msg = f"{self._model!r} lacks {_some(missing)}, which {index.name} names: an incomplete download."
            raise ModelLoadError(msg)

    def _open(self, path: Path, device: str) -> safe_open:
        try:
            return safe_open(path, framework="pt", device=device)
        except (SafetensorError, OSError) as error:
            msg = f"{path.name} of {self._model!r} cannot be read ({type(error).__name__}: {error})."
            raise ModelLoadError(msg) from error

    def _check_names(self, wanted: Collection[str]) -> None:
        missing = sorted(name for name in wanted if name not in self._files)
        if missing:
            msg = (
                f"{self._model!r} lacks the weights {_some(missing)}. It is not a trained reranker of this family, "
                f"or the file is incomplete."
            )
            raise ModelLoadError(msg)

    def _check_shape(self, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if found != expected:
            msg = f"{name} of {self._model!r} has the shape {found}; its config.json asks for {expected}."
            raise ModelLoadError(msg)


def _some(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
