"""Steps that all torch families share when they load: tokenizer, weights, data type, clear errors."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Final

import torch
import transformers
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import DeviceError, ModelLoadError
from flag_rerank_integrations.families.checkpoint import Checkpoint
from flag_rerank_integrations.families.quantization import quantized_loading
from flag_rerank_integrations.families.weight_files import check_weight_files, some

__all__ = [
    "Stopwatch",
    "check_vocabulary",
    "load_model",
    "load_tokenizer",
    "quiet_transformers",
    "torch_dtype",
]

logger: Final = logging.getLogger(__name__)

_LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError, SafetensorError)
_PLACED_AT_LOAD = ("cuda", "xpu")
_BFLOAT16_CAPABILITY = 8
_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
)


class Stopwatch:
    """Seconds by named step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of a `with` block to one step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def torch_dtype(config: RerankConfig, device: Device) -> torch.dtype:
    """Return the data type of the weights.

    "auto" is float32 on CPUs and Apple GPUs, bfloat16 on accelerators that compute in it,
    else float16.
    """
    if config.dtype != "auto":
        dtype: torch.dtype = getattr(torch, config.dtype)
        return dtype
    if device.kind in ("cpu", "mps"):
        return torch.float32
    if device.kind == "cuda":
        major, _ = torch.cuda.get_device_capability(device.index)
        return torch.bfloat16 if major >= _BFLOAT16_CAPABILITY else torch.float16
    return torch.bfloat16 if device.kind == "xpu" else torch.float16


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and warnings, and put its settings back."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def load_tokenizer(checkpoint: Checkpoint, config: RerankConfig) -> Any:  # noqa: ANN401 - transformers' tokenizers share no typed base
    """Load a checkpoint's fast tokenizer, as transformers would use it.

    Raises:
        ModelLoadError: There is none, or only a slow one.
    """
    if not any((checkpoint.path / name).is_file() for name in _TOKENIZER_FILES):
        # transformers would make one up, with a vocabulary of nothing but special tokens.
        msg = f"{config.model!r} has no tokenizer: one of {', '.join(_TOKENIZER_FILES)} is needed."
        raise ModelLoadError(msg)
    with quiet_transformers():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                checkpoint.path, trust_remote_code=config.trust_remote_code, local_files_only=True
            )
        except _LOAD_ERRORS as error:
            msg = f"The tokenizer of {config.model!r} could not be loaded ({_said(error)})."
            raise ModelLoadError(msg) from error
    if not getattr(tokenizer, "is_fast", False):
        msg = f"{config.model!r} has only a slow tokenizer: a tokenizer.json is needed."
        raise ModelLoadError(msg)
    return tokenizer


def load_model(auto_class: Any, checkpoint: Checkpoint, config: RerankConfig, device: Device) -> Any:  # noqa: ANN401 - transformers' auto classes are untyped
    """Load weights in the data type they will run in, onto the device, every one accounted for.

    Raises:
        ModelLoadError: No safetensors weights, unreadable or misshapen ones, or weights that the
            model needs and the checkpoint lacks: transformers would fill those at random.
        DeviceError: The device has too little memory.
    """
    safe = check_weight_files(checkpoint.path, config)
    adapter = checkpoint.adapter
    dtype = torch_dtype(config, device)
    options = quantized_loading(config, device, dtype) or _placed_at_load(device)
    if adapter is not None:
        options = adapter.options(config)
    with quiet_transformers():
        try:
            model, report = auto_class.from_pretrained(
                checkpoint.path,
                dtype=dtype,
                use_safetensors=safe,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                trust_remote_code=config.trust_remote_code,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
        except torch.OutOfMemoryError as error:
            raise _too_large(config, device) from error
        except pickle.UnpicklingError as error:
            msg = f"The pickle of {config.model!r} is broken, or holds more than weights; torch refuses to read it."
            raise ModelLoadError(msg) from error
        except _LOAD_ERRORS as error:
            msg = f"{config.model!r} could not be loaded as {checkpoint.architecture or 'a model'} ({_said(error)})."
            raise ModelLoadError(msg) from error
    if adapter is None:
        _check_weights(model, report, config)
    else:
        _check_weights(model, _without(report, adapter.brings(config)), config)
        model = adapter.merge(model, config)
    try:
        model = model.eval().requires_grad_(False)  # noqa: FBT003 - torch's own signature
        return model if "quantization_config" in options else model.to(str(device))  # quantized ones refuse to move
    except torch.OutOfMemoryError as error:
        raise _too_large(config, device) from error


def _placed_at_load(device: Device) -> dict[str, Any]:
    """Have weights read straight onto an accelerator, not first into the host; transformers needs accelerate for it."""
    if device.kind not in _PLACED_AT_LOAD or find_spec("accelerate") is None:
        return {}
    return {"device_map": {"": str(device)}}


def _too_large(config: RerankConfig, device: Device) -> DeviceError:
    return DeviceError(
        f"{config.model!r} does not fit into the free memory of {device}. Choose another device or dtype."
    )


def _without(report: Mapping[str, Any], brought: frozenset[str]) -> dict[str, Any]:
    """Leave out of transformers' report what an adapter brings, and heads of the base model that it has no use for."""
    return {
        "missing_keys": set(report["missing_keys"]) - brought,
        "mismatched_keys": {entry for entry in report["mismatched_keys"] if entry[0] not in brought},
        "unexpected_keys": set(),
    }


def _check_weights(model: Any, report: Any, config: RerankConfig) -> None:  # noqa: ANN401 - transformers' types
    """Refuse a model with weights made up at random, or a head that was not used."""
    wrong = [f"{name} {_shape(stored)} for {_shape(built)}" for name, stored, built in report["mismatched_keys"]]
    if wrong:
        msg = (
            f"The weights of {config.model!r} do not fit the model that its config.json describes: "
            f"{some(sorted(wrong))}. The two are of different models, or of different revisions of one."
        )
        raise ModelLoadError(msg)
    missing = sorted(report["missing_keys"])
    if missing:
        msg = (
            f"{config.model!r} lacks the weights {some(missing)}: they would be random and every score meaningless. "
            f"It is not a trained reranker (an embedding or base model, perhaps), or the file is incomplete."
        )
        raise ModelLoadError(msg)
    prefix = f"{model.base_model_prefix}."
    strays = sorted(key for key in report["unexpected_keys"] if not str(key).startswith(prefix))
    if strays:
        msg = f"{config.model!r} has weights that {type(model).__name__} has no place for: {some(strays)}."
        raise ModelLoadError(msg)


def check_vocabulary(model: Any, tokenizer: Any, config: RerankConfig) -> None:  # noqa: ANN401 - transformers' types
    """Refuse a tokenizer whose ids the model has no embeddings for.

    Raises:
        ModelLoadError: The tokenizer is another model's.
    """
    tokens, rows = len(tokenizer), model.get_input_embeddings().num_embeddings
    if tokens > rows:
        msg = f"The tokenizer of {config.model!r} has {tokens} tokens, but the model has embeddings for {rows}."
        raise ModelLoadError(msg)


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _said(error: BaseException) -> str:
    """Return an error's type and first line, which is all a message should repeat of it."""
    line = next((line for line in str(error).strip().splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {line.strip()[:300]}"
