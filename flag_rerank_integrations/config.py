"""One immutable description of a reranker: validated once, JSON in and out, no live objects."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from flag_rerank_integrations.errors import ConfigError
from flag_rerank_integrations.option_values import (
    check_count,
    check_names,
    check_steps,
    device_form,
    frozen,
    refuse,
    thawed,
)
from flag_rerank_integrations.plain_numbers import plain_number
from flag_rerank_integrations.ray_options import RayOptions, ray_form, ray_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from flag_rerank_integrations.option_types import RerankOptions

__all__ = ["DEFAULT_MAX_LENGTH", "DEFAULT_MODEL", "QUICKSTART", "RerankConfig"]

DEFAULT_MODEL: Final = "BAAI/bge-reranker-v2-m3"
QUICKSTART: Final = "quickstart"


class _DefaultLength(int):
    """A length nobody asked for: it gives way where a model allows less.

    1,024 tokens suit the v2 models, yet bge-reranker-base ends at 512. A length that a
    user asks for and the model cannot read is an error; this default adapts instead.
    """

    def __reduce__(self) -> str:
        return "DEFAULT_MAX_LENGTH"


DEFAULT_MAX_LENGTH: Final[int] = _DefaultLength(1024)

_CHOICES: Final[dict[str, tuple[object, ...]]] = {
    "dtype": ("auto", "float32", "float16", "bfloat16"),
    "family": ("auto", "encoder", "causal", "onnx", "sentence-transformers", "layerwise", "lightweight"),
    "backend": ("auto", "torch", "onnx"),
    "special_tokens": ("plain", "parse", "escape"),
    "long_passages": ("truncate", "windows", "error"),
    "window_aggregation": ("max", "mean", "first"),
    "quantization": (None, "int8", "int4"),
    "compress_ratio": (1, 2, 4, 8),
}
_OF_WINDOWS: Final = ("window_overlap", "window_aggregation", "max_windows")
_MOST_OVERLAP: Final = 0.9


@dataclass(frozen=True, slots=True)
class RerankConfig:
    """All options of a `Reranker`.

    Args:
        model: A local directory, a hub id, or "quickstart" (the model of the `quickstart` extra).
        device: "auto", "cpu", "cuda:1", an index, a `torch.device`, ...; see `devices.resolve`.
        dtype: "auto", "float32", "float16" or "bfloat16". "auto" is float32 on CPUs.
        max_length: Most tokens of one pair, special tokens included. By default 1,024, or the
            model's own limit where that is smaller.
        query_max_length: Most tokens of the query; by default three quarters of `max_length`.
        max_batch_tokens: Most token positions in one forward pass, or "auto".
        normalize: Whether scores are sigmoids (0 to 1) instead of logits.
        instruction: Text put before the query, for models that were trained with one.
        passage_instruction: Text put before the passage, for causal, layerwise and lightweight models.
        prompt: The task of a causal, layerwise or lightweight reranker: "qa" (the default, in the model's
            own words), "same-meaning", "duplicate-question", "counterargument", or a sentence of your own.
        family: How pairs are laid out and scores read; "auto" reads it from the checkpoint.
        backend: "auto", "torch" or "onnx".
        quantization: None, "int8" or "int4": integers for the layers' weights. On a CPU "int8" alone; on
            accelerators with the `quantization` extra.
        cutoff_layer: The layer to read scores at, for layerwise and lightweight models; no layer behind it
            is loaded. None is the model's last.
        progressive: Steps (layer, fraction) of a ranking that prunes itself, such as ((8, 0.5), (20, 0.25)),
            for layerwise and lightweight models: of the distinct passages of a query that fraction, the best
            ones, goes on at that layer. The rest keep the score they have there and rank below all
            that went further.
        compress_ratio: Token compression of lightweight models: 1 (off), 2, 4 or 8.
        compress_layers: Layers before which lightweight models compress a passage's tokens.
        matched_head: Whether lightweight models read each layer with that layer's own head, instead of
            every layer with the first, as the published package does.
        long_passages: What becomes of a passage that does not fit: "truncate" reads its head, "error"
            refuses it, "windows" reads it all, in windows that overlap, each with the whole query.
        window_overlap: Least share of a window that it has in common with the next, 0 to 0.9.
        window_aggregation: A passage's score from its windows' logits: "max", "mean", or "first",
            which reads no further window.
        max_windows: Most windows of one passage; what lies behind them is not read, and counted.
        revision: Branch, tag or commit of a hub repository.
        cache_dir: Directory of the hub's cache.
        local_files_only: Never use the network.
        allow_pickle: Whether pickled weights may be read where there are no others; they can run code.
        trust_remote_code: Whether code that comes with a checkpoint may run.
        special_tokens: "plain": a literal "</s>" in a text is text, as far as tokenizers can tell.
            "parse": it acts as the token. "escape": it is taken apart, which also holds for XLM-R.
        score_cache: How many recent scores each device remembers, by the token ids of the pair; 0 is none.
        progress: Whether to show a progress bar over the pairs of a call.
        timeout: Seconds one call may take; None is no limit.
        ray: `RayOptions`, or a dict of the same names, to run on Ray; device="ray:4" says
            RayOptions(num_workers=4).

    Raises:
        ConfigError: An option has a wrong type or value.
    """

    model: str = DEFAULT_MODEL
    device: str | tuple[str, ...] = "auto"
    dtype: str = "auto"
    max_length: int = DEFAULT_MAX_LENGTH
    query_max_length: int | None = None
    max_batch_tokens: int | str = "auto"
    normalize: bool = False
    instruction: str | None = None
    passage_instruction: str | None = None
    prompt: str | None = None
    family: str = "auto"
    backend: str = "auto"
    quantization: str | None = None
    cutoff_layer: int | None = None
    progressive: tuple[tuple[int, float], ...] | None = None
    compress_ratio: int = 1
    compress_layers: tuple[int, ...] = (8,)
    matched_head: bool = False
    long_passages: str = "truncate"
    window_overlap: float = 0.25
    window_aggregation: str = "max"
    max_windows: int = 64
    revision: str | None = None
    cache_dir: str | None = None
    local_files_only: bool = False
    allow_pickle: bool = False
    trust_remote_code: bool = False
    special_tokens: str = "plain"
    score_cache: int = 0
    progress: bool = False
    timeout: float | None = None
    ray: RayOptions | None = None

    if TYPE_CHECKING:  # more forms are taken than are kept

        def __init__(self, model: str | os.PathLike[str] = ..., **options: Unpack[RerankOptions]) -> None: ...

    def __post_init__(self) -> None:
        """Bring loose forms into one form and refuse what cannot work."""
        self._normalize_forms()
        self._check_types()
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                refuse(name, getattr(self, name), f"one of {', '.join(map(repr, allowed))}")
        self._check_ranges()
        self._check_windows()
        ray_options(self.device, self.ray)

    def _normalize_forms(self) -> None:
        """Turn paths, torch dtypes and devices, lists, and numpy's numbers into plain strings, tuples and numbers."""
        for option in dataclasses.fields(self):
            object.__setattr__(self, option.name, plain_number(getattr(self, option.name)))
        for name in ("model", "cache_dir"):
            value = getattr(self, name)
            if isinstance(value, os.PathLike):
                object.__setattr__(self, name, os.fspath(value))
        dtype = str(self.dtype).removeprefix("torch.")
        object.__setattr__(self, "dtype", {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}.get(dtype, dtype))
        object.__setattr__(self, "device", device_form(self.device))
        object.__setattr__(self, "ray", ray_form(self.ray))
        for name in ("compress_layers", "progressive"):
            if isinstance(getattr(self, name), list | tuple):
                object.__setattr__(self, name, frozen(getattr(self, name)))

    def _check_types(self) -> None:
        for name in ("model", "dtype", "special_tokens", "long_passages", "window_aggregation", "family", "backend"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                refuse(name, getattr(self, name), "a non-empty string")
        for name in ("instruction", "passage_instruction", "prompt", "revision", "cache_dir"):
            if not isinstance(getattr(self, name), str | None):
                refuse(name, getattr(self, name), "a string or None")
        for name in (
            "normalize",
            "matched_head",
            "local_files_only",
            "allow_pickle",
            "trust_remote_code",
            "progress",
        ):
            if not isinstance(getattr(self, name), bool):
                refuse(name, getattr(self, name), "True or False")

    def _check_ranges(self) -> None:
        check_count("max_length", self.max_length, least=8)
        if self.query_max_length is not None:
            check_count("query_max_length", self.query_max_length, least=1)
            if self.query_max_length >= self.max_length:
                refuse("query_max_length", self.query_max_length, f"less than max_length={int(self.max_length)}")
        if self.max_batch_tokens != "auto":
            check_count("max_batch_tokens", self.max_batch_tokens, least=1)
        check_count("score_cache", self.score_cache, least=0)
        check_count("compress_ratio", self.compress_ratio, least=1)
        if self.cutoff_layer is not None:
            check_count("cutoff_layer", self.cutoff_layer, least=1)
        if not isinstance(self.compress_layers, tuple):
            refuse("compress_layers", self.compress_layers, "a list of layers")
        for layer in self.compress_layers:
            check_count("compress_layers", layer, least=1)
        if self.progressive is not None:
            check_steps(self.progressive)
            self._check_progressive()
        seconds = self.timeout
        if seconds is not None and (
            isinstance(seconds, bool)
            or not isinstance(seconds, int | float)
            or not 0 < seconds <= threading.TIMEOUT_MAX
        ):
            refuse("timeout", seconds, f"a positive number of seconds or None, at most {threading.TIMEOUT_MAX:.0f}")

    def _check_windows(self) -> None:
        """Check how windows lie, and that nothing is said of them where there are none."""
        overlap = self.window_overlap
        if isinstance(overlap, bool) or not isinstance(overlap, int | float) or not 0 <= overlap <= _MOST_OVERLAP:
            refuse("window_overlap", overlap, f"a share of a window, 0 to {_MOST_OVERLAP}")
        check_count("max_windows", self.max_windows, least=1)
        if self.long_passages == "windows":
            return
        for option in dataclasses.fields(self):
            if option.name in _OF_WINDOWS and getattr(self, option.name) != option.default:
                msg = f"{option.name}={getattr(self, option.name)!r} says nothing without long_passages='windows'."
                raise ConfigError(msg)

    def _check_progressive(self) -> None:
        """Refuse what a ranking that prunes itself cannot do: a score there depends on the other passages."""
        for name, needed in (("long_passages", "truncate"), ("score_cache", 0)):
            if getattr(self, name) not in (needed, "error"):
                refuse(name, getattr(self, name), f"{needed!r} together with progressive")

    def replace(self, **changes: Any) -> RerankConfig:  # noqa: ANN401 - any option's value
        """Return a copy with some options changed, validated anew.

        Raises:
            ConfigError: There is no such option, or a value is wrong.
        """
        check_names(changes, RerankConfig)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain JSON values; a default `max_length` stays unsaid."""
        options = {option.name: getattr(self, option.name) for option in dataclasses.fields(self)}
        if isinstance(self.max_length, _DefaultLength):
            del options["max_length"]
        if self.ray is not None:
            options["ray"] = self.ray.to_dict()
        return {name: thawed(value) for name, value in options.items()}

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> RerankConfig:
        """Build a config from a mapping such as `to_dict` returns.

        Args:
            options: Values by name; what is left out has its default.

        Raises:
            ConfigError: It is not a mapping, names an unknown option, or a value is wrong.
        """
        if not isinstance(options, Mapping):
            msg = f"A config is an object of options, not {type(options).__name__}."
            raise ConfigError(msg)
        check_names(options, cls)
        return cls(**options)

    def to_json(self) -> str:
        """Return the options as one JSON object."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> RerankConfig:
        """Build a config from one JSON object.

        Args:
            text: The object, as `to_json` returns it.

        Raises:
            ConfigError: The text is not JSON, or not a valid config.
        """
        try:
            options = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            msg = f"The config is not valid JSON: {error}"
            raise ConfigError(msg) from error
        return cls.from_dict(options)
