"""PEFT adapters: a small checkpoint that changes a base model, merged into it when the model is loaded."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.errors import MissingExtraError, ModelLoadError
from flag_rerank_integrations.families.weight_files import check_weight_files, some, stored_shapes

__all__ = ["Adapter"]

_PREFIX: Final = "base_model.model."
_HEADS: Final = ("score.weight", "classifier.weight", "classifier.out_proj.weight")
_FAMILIES: Final = {"SEQ_CLS": "encoder", "CAUSAL_LM": "causal"}
_WEIGHTS: Final = "adapter_model"


@dataclass(frozen=True)
class Adapter:
    """An adapter's directory, and what its config says."""

    path: Path
    base: str
    """The model it changes: a directory or a hub id."""
    revision: str | None
    """The base's revision."""
    family: str | None
    """The family that its task belongs to; None leaves it to the base model's architecture."""

    @classmethod
    def read(cls, path: Path) -> Adapter | None:
        """Return the adapter in a directory, or None where there is none.

        Raises:
            ModelLoadError: Its config is broken, or names no base model.
        """
        file = path / "adapter_config.json"
        if not file.is_file():
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            base, revision, task = (content.get(k) for k in ("base_model_name_or_path", "revision", "task_type"))
        except (OSError, ValueError, AttributeError) as error:
            msg = f"{str(file)!r} is no adapter's config: {error}"
            raise ModelLoadError(msg) from error
        if not isinstance(base, str) or not base:
            msg = f"{str(file)!r} names no base model: set its base_model_name_or_path to a directory or a hub id."
            raise ModelLoadError(msg)
        return cls(path, base, revision or None, _FAMILIES.get(task or ""))

    def options(self, config: RerankConfig) -> dict[str, Any]:
        """Return how the base model is to be made, so that the adapter's own head fits.

        Raises:
            MissingExtraError: The library is not installed.
            ModelLoadError: The adapter's weights are missing, broken, or a pickle.
        """
        _require_peft(config)
        rows = [shape[0] for name, shape in self._stored(config).items() if name.endswith(_HEADS) and len(shape) > 1]
        return {"num_labels": rows[0]} if rows and self.family == "encoder" else {}

    def brings(self, config: RerankConfig) -> frozenset[str]:
        """Return the names of the base model's weights that the adapter replaces as a whole."""
        return frozenset(name.removeprefix(_PREFIX) for name in self._stored(config))

    def merge(self, model: Any, config: RerankConfig) -> Any:  # noqa: ANN401 - peft is optional, its types too
        """Return the base model with the adapter merged into its weights.

        Raises:
            ModelLoadError: The adapter does not fit the model, or is of a kind that cannot be merged.
        """
        self._untie_head(model, config)
        try:
            with warnings.catch_warnings():  # peft's are about tied heads, which were just untied, and about names
                warnings.simplefilter("ignore")
                merged, strays = self._merged(model)
        except Exception as error:  # peft's errors share no base
            line = next(iter(str(error).strip().splitlines()), "no message")
            msg = f"The adapter {config.model!r} cannot be merged into {self.base!r} ({type(error).__name__}: {line})."
            raise ModelLoadError(msg) from error
        if strays:
            msg = f"The adapter {config.model!r} does not fit {self.base!r}: {some(strays)} have no counterpart."
            raise ModelLoadError(msg)
        return merged

    def _merged(self, model: Any) -> tuple[Any, list[str]]:  # noqa: ANN401 - as above
        """Return the merged model, and the weights that only the adapter or only its config knows."""
        from peft import PeftConfig, get_peft_model

        own = PeftConfig.from_pretrained(str(self.path))
        if own.is_prompt_learning:
            msg = f"{own.peft_type.value} adds tokens to the input, not to the weights"
            raise ValueError(msg)
        own.inference_mode = True
        wrapped = get_peft_model(model, own)
        report = wrapped.load_adapter(str(self.path), "default", torch_device="cpu")
        strays = sorted({*report.missing_keys, *report.unexpected_keys})
        return None if strays else wrapped.merge_and_unload(safe_merge=True), strays

    def _untie_head(self, model: Any, config: RerankConfig) -> None:  # noqa: ANN401 - as above
        """Give the head weights of its own where it shares the embeddings' and the adapter changes either."""
        import torch

        head, table = model.get_output_embeddings(), model.get_input_embeddings()
        if head is None or head.weight is not table.weight:
            return
        shared = [name for name, module in model.named_modules() if module is head or module is table]
        if any(stored.startswith(f"{name}.") for name in shared for stored in self.brings(config)):
            head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)

    def _stored(self, config: RerankConfig) -> dict[str, tuple[int, ...]]:
        """Return names and shapes of the adapter's weights."""
        if check_weight_files(self.path, config, _WEIGHTS):
            return stored_shapes(self.path / f"{_WEIGHTS}.safetensors")
        import torch

        try:
            weights = torch.load(self.path / f"{_WEIGHTS}.bin", map_location="cpu", weights_only=True)
            return {name: tuple(weight.shape) for name, weight in weights.items()}
        except Exception as error:  # a pickle can fail in any way
            msg = f"The pickle of {config.model!r} is broken, or holds more than weights ({type(error).__name__})."
            raise ModelLoadError(msg) from error


def _require_peft(config: RerankConfig) -> None:
    try:
        import peft  # noqa: F401
    except ImportError as error:
        msg = f'{config.model!r} is an adapter and needs peft: pip install "flag-rerank-integrations[peft]" ({error}).'
        raise MissingExtraError(msg, name="peft") from error
