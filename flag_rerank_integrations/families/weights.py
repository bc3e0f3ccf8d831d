"""Reading some of a checkpoint's weights, and only those, into the data type and device they will run on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import DeviceError, ModelLoadError
from flag_rerank_integrations.families.checkpoint import Checkpoint
from flag_rerank_integrations.families.weight_files import check_weight_files, some, stored_shapes

__all__ = ["StoredWeights"]


class StoredWeights:
    """The tensors in a checkpoint's safetensors files, be it one or many.

    Args:
        checkpoint: Where they lie.
        config: Names the model in messages.

    Raises:
        ModelLoadError: There are none, one is missing or broken, or there is only a pickle.
    """

    def __init__(self, checkpoint: Checkpoint, config: RerankConfig) -> None:
        if not check_weight_files(checkpoint.path, config):
            msg = f"{config.model!r} has its weights as a pickle; this family reads its layers from safetensors only."
            raise ModelLoadError(msg)
        self._model = config.model
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for file in sorted(checkpoint.path.glob("model*.safetensors")):
            shapes = stored_shapes(file)
            self._shapes.update(shapes)
            self._files.update(dict.fromkeys(shapes, file))

    @property
    def names(self) -> Collection[str]:
        """The names of all tensors."""
        return self._shapes.keys()

    def read(
        self, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, device: Device
    ) -> dict[str, torch.Tensor]:
        """Read tensors by name.

        Args:
            shapes: The names, and the shape that each must have.
            dtype: What to read them as.
            device: Where to.

        Raises:
            ModelLoadError: Some are missing or have another shape.
            DeviceError: The device has too little memory.
        """
        self._check(shapes)
        by_file: dict[Path, list[str]] = defaultdict(list)
        for name in shapes:
            by_file[self._files[name]].append(name)
        tensors: dict[str, torch.Tensor] = {}
        try:
            for path, names in by_file.items():
                with safe_open(path, framework="pt", device=str(device)) as file:
                    tensors.update((name, file.get_tensor(name).to(dtype)) for name in names)
        except torch.OutOfMemoryError as error:
            msg = f"{self._model!r} does not fit into the free memory of {device}. Choose another device or dtype."
            raise DeviceError(msg) from error
        return tensors

    def _check(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        missing = sorted(name for name in wanted if name not in self._shapes)
        if missing:
            msg = (
                f"{self._model!r} lacks the weights {some(missing)}. It is not a trained reranker of this family, "
                f"or the file is incomplete."
            )
            raise ModelLoadError(msg)
        for name, shape in wanted.items():
            if self._shapes[name] != shape:
                msg = f"{name} of {self._model!r} has the shape {self._shapes[name]}; its config.json asks for {shape}."
                raise ModelLoadError(msg)
