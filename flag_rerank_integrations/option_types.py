"""The options of a `Reranker` as type checkers and editors read them, in every form that is taken."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from flag_rerank_integrations.ray_options import RayOptions

if TYPE_CHECKING:
    import torch

    from flag_rerank_integrations.remote.config import RemoteConfig

__all__ = ["RerankOptions", "WrapperOptions"]


class RerankOptions(TypedDict, total=False):
    """What `Reranker(model, ...)` takes by keyword: the fields of `RerankConfig`, which documents them.

    The types are wider than those of `RerankConfig`, which holds each option in one form.
    """

    device: str | int | torch.device | Sequence[str | int | torch.device]
    dtype: str | torch.dtype
    max_length: int
    query_max_length: int | None
    max_batch_tokens: int | Literal["auto"]
    normalize: bool
    instruction: str | None
    passage_instruction: str | None
    prompt: str | None
    family: Literal["auto", "encoder", "causal", "onnx", "sentence-transformers", "layerwise", "lightweight"]
    backend: Literal["auto", "torch", "onnx"]
    quantization: Literal["int8", "int4"] | None
    cutoff_layer: int | None
    progressive: Sequence[tuple[int, float]] | None
    compress_ratio: Literal[1, 2, 4, 8]
    compress_layers: Sequence[int]
    matched_head: bool
    long_passages: Literal["truncate", "windows", "error"]
    window_overlap: float
    window_aggregation: Literal["max", "mean", "first"]
    max_windows: int
    revision: str | None
    cache_dir: str | os.PathLike[str] | None
    local_files_only: bool
    allow_pickle: bool
    trust_remote_code: bool
    special_tokens: Literal["plain", "parse", "escape"]
    score_cache: int
    progress: bool
    timeout: float | None
    ray: RayOptions | Mapping[str, Any] | None


class WrapperOptions(RerankOptions, total=False):
    """What every framework wrapper takes: the options of `Reranker`, or where else scores come from."""

    model: str | os.PathLike[str]
    reranker: Any
    remote: RemoteConfig | Mapping[str, Any] | None
