"""The score head of a classifier in half precision: kept in float32, so that scores are not rounded into ties.

bfloat16 has 8 bits: between 8 and 16 it knows steps of 1/16 only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

__all__ = ["keep_in_float32"]


def keep_in_float32(model: Any, directory: Path | None) -> None:  # noqa: ANN401 - transformers' models share no typed base
    """Turn everything behind the base model to float32, with weights as precise as the files have them.

    Args:
        model: With a classification head; its base model stays as it is.
        directory: Where its safetensors files are; None where an adapter has changed the head.
    """
    if model.dtype == torch.float32:
        return
    for name, part in model.named_children():
        if part is model.base_model or not any(True for _ in part.parameters()):
            continue
        part.float()
        part.register_forward_pre_hook(_to_float32)
        if directory is not None:
            _restore({f"{name}.{own}": parameter for own, parameter in part.named_parameters()}, directory)


def _to_float32(_module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(i.float() if torch.is_tensor(i) and i.is_floating_point() else i for i in inputs)


def _restore(parameters: dict[str, torch.nn.Parameter], directory: Path) -> None:
    """Read parameters anew from the files that have them, for they were rounded when the model was loaded."""
    for path in sorted(directory.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file, torch.no_grad():
            for name in parameters.keys() & set(file.keys()):
                parameters[name].copy_(file.get_tensor(name))
