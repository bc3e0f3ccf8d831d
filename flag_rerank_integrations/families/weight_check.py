"""Makes sure that a model some other library loaded has all its weights from the checkpoint.

transformers fills weights that a checkpoint lacks with random numbers and only logs it; a
reranker with a random head gives scores all the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open

from flag_rerank_integrations.errors import ModelLoadError
from flag_rerank_integrations.families.weight_files import some

__all__ = ["require_all_weights"]


def require_all_weights(model: Any, directory: Path, name: str) -> None:  # noqa: ANN401 - transformers' models share no typed base
    """Refuse a transformers model with weights that its checkpoint does not hold.

    Args:
        model: As it was loaded.
        directory: The checkpoint.
        name: What the user calls it.

    Raises:
        ModelLoadError: Weights are missing.
    """
    files = sorted(directory.rglob("*.safetensors"), key=lambda path: (len(path.parts), path))
    missing = _not_in_files(model, files)
    if missing and files:
        # The names may only be older ones that transformers translates: it alone can tell, as it loads.
        missing = _missing_to_transformers(model, files[0].parent)
    if missing:
        msg = (
            f"{name!r} lacks the weights {some(missing)}: they would be random and every score meaningless. "
            f"It is not a trained reranker (an embedding or base model, perhaps), or the file is incomplete."
        )
        raise ModelLoadError(msg)


def _not_in_files(model: Any, files: list[Path]) -> list[str]:  # noqa: ANN401 - as above
    """Return the model's parameters whose names no file has; tied ones need not be there."""
    stored: set[str] = set()
    for path in files:
        with safe_open(path, framework="np") as file:
            stored.update(file.keys())
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    prefix = f"{model.base_model_prefix}."
    return [
        name
        for name, _ in model.named_parameters()
        if name not in stored and name.removeprefix(prefix) not in stored and name not in tied
    ]


def _missing_to_transformers(model: Any, directory: Path) -> list[str]:  # noqa: ANN401 - as above
    """Load the checkpoint once more and return the weights that transformers missed."""
    _, report = type(model).from_pretrained(
        directory, config=model.config, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    return sorted(report["missing_keys"])
