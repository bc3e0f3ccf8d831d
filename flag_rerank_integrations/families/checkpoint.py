"""Where a model's files lie, and what its config files say of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flag_rerank_integrations.config import DEFAULT_MAX_LENGTH, QUICKSTART, RerankConfig
from flag_rerank_integrations.errors import ConfigError, ModelLoadError
from flag_rerank_integrations.families.adapter import Adapter
from flag_rerank_integrations.families.hub import fetch
from flag_rerank_integrations.families.quickstart import locate

__all__ = ["Checkpoint", "effective_max_length", "position_limit"]

logger: Final = logging.getLogger(__name__)

# Families that count positions from padding_idx + 1, so that so many rows of the table are never read.
_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer"})


@dataclass(frozen=True)
class Checkpoint:
    """A model's files in a local directory, with its config files parsed."""

    path: Path
    config: Mapping[str, Any]
    """config.json, or {} where there is none."""
    modules: tuple[str, ...]
    """Module types that modules.json lists (sentence-transformers' layout), in order."""
    adapter: Adapter | None = None
    """A PEFT adapter to merge into the model; everything else here is the base model's."""

    @classmethod
    def open(cls, config: RerankConfig) -> Checkpoint:
        """Find the files of `config.model`, from the hub's cache or the hub where it is no directory.

        Where it is a PEFT adapter, the files are those of the base model that it names.

        Raises:
            ModelLoadError: There is no such model, it could not be fetched, or its JSON is broken.
        """
        path = _find(config)
        adapter = Adapter.read(path)
        if adapter is not None:
            path = _find_base(adapter, config)
        modules = _read_json(path / "modules.json", [])
        types = tuple(str(module.get("type", "")) for module in modules if isinstance(module, dict))
        return cls(path, _read_json(path / "config.json", {}), types, adapter)

    @property
    def architecture(self) -> str:
        """The model class that config.json names, or ""."""
        names = self.config.get("architectures")
        first = names[0] if isinstance(names, list) and names else names
        return first if isinstance(first, str) else ""

    def has(self, *patterns: str) -> bool:
        """Return whether any file at the top or in onnx/ matches one of the patterns."""
        return _has(self.path, *patterns)


def position_limit(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens a model's positions allow, or None where config.json does not say.

    RoBERTa and its like count positions from padding_idx + 1: of 514 rows 512 can be read.
    """
    limit = config.get("max_position_embeddings")
    if not isinstance(limit, int) or limit <= 0:
        return None
    if config.get("model_type") in _OFFSET_POSITIONS:
        padding = config.get("pad_token_id")
        limit -= (padding if isinstance(padding, int) else 1) + 1
    return limit


def effective_max_length(config: RerankConfig, limit: int | None) -> int:
    """Return the length to cut pairs to: what was asked for, or the model's limit where nothing was.

    Raises:
        ConfigError: The length asked for is above the model's limit.
    """
    if limit is None or config.max_length <= limit:
        return int(config.max_length)
    if config.max_length is DEFAULT_MAX_LENGTH:
        logger.info("%s reads at most %d tokens: max_length is %d.", config.model, limit, limit)
        return limit
    msg = f"max_length={config.max_length} is above the {limit} tokens that the positions of {config.model!r} allow."
    raise ConfigError(msg)


def _find(config: RerankConfig) -> Path:
    if config.model == QUICKSTART:
        return locate()
    path = _as_path(config.model)
    if path.is_dir():
        is_adapter = (path / "adapter_config.json").is_file()
        if not (path / "config.json").is_file() and not is_adapter and not _has(path, "*.onnx"):
            msg = f"The directory {config.model!r} has no config.json: it is not a model."
            raise ModelLoadError(msg)
        return path
    if path.is_file() or config.model.startswith((".", "/", "~")):
        msg = f"There is no directory {config.model!r}. Give a model's directory, a hub id, or {QUICKSTART!r}."
        raise ModelLoadError(msg)
    return fetch(config)


def _as_path(model: str) -> Path:
    """Return a model's name as a path that can be asked whether it is there.

    Raises:
        ModelLoadError: It is too long, in the home of nobody, or where this process may not look.
    """
    try:
        path = Path(model).expanduser()
        path.is_dir()
    except (OSError, RuntimeError) as error:
        msg = f"{model!r} is neither a directory that can be read nor a hub id ({error})."
        raise ModelLoadError(msg) from error
    return path


def _find_base(adapter: Adapter, config: RerankConfig) -> Path:
    """Return the directory of an adapter's base model."""
    try:
        path = _find(config.replace(model=adapter.base, revision=adapter.revision))
    except ModelLoadError as error:
        msg = f"The adapter {config.model!r} needs its base model {adapter.base!r}: {error}"
        raise ModelLoadError(msg) from error
    if (path / "adapter_config.json").is_file():
        msg = f"The base model {adapter.base!r} of the adapter {config.model!r} is an adapter itself: merge that first."
        raise ModelLoadError(msg)
    return path


def _has(directory: Path, *patterns: str) -> bool:
    return any(True for pattern in patterns for _ in (*directory.glob(pattern), *directory.glob(f"onnx/{pattern}")))


def _read_json(path: Path, default: Any) -> Any:  # noqa: ANN401 - JSON of any shape
    """Return a JSON file's content, of the default's type, or the default where there is none."""
    if not path.is_file():
        return default
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{path.name} of the model is not readable JSON: {error}"
        raise ModelLoadError(msg) from error
    if not isinstance(content, type(default)):
        msg = f"{path.name} of the model should hold a JSON {type(default).__name__}."
        raise ModelLoadError(msg)
    return content
