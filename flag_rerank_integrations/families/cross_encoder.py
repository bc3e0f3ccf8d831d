"""Whatever sentence-transformers' CrossEncoder loads, Qwen3-Reranker and its kind included.

The library lays pairs out (chat templates, prompts, truncation) and owns the modules. This
family tokenizes each pair on its own, so that pairs are planned by their real lengths, and
reads the raw logit: the activation that a checkpoint names is not applied.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch

from flag_rerank_integrations.config import DEFAULT_MAX_LENGTH, RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.encoding import repair
from flag_rerank_integrations.errors import ConfigError, DeviceError, ModelLoadError
from flag_rerank_integrations.families.base import Family, Floats
from flag_rerank_integrations.families.checkpoint import Checkpoint, effective_max_length, position_limit
from flag_rerank_integrations.families.loading import Stopwatch, quiet_transformers, torch_dtype
from flag_rerank_integrations.families.weight_check import require_all_weights
from flag_rerank_integrations.pairs import EncodedPair, Layout, Pair

__all__ = ["CrossEncoderFamily", "load"]

logger: Final = logging.getLogger(__name__)

_ROWS_AT_ONCE: Final = 64
# Characters a text may have for each token that can be read, before it is cut unread; the
# second is for texts, such as runs of white space, that gave too few tokens under the first.
_CHARACTERS_PER_TOKEN: Final = (16, 256)
_LEAST_CHARACTERS: Final = 1024
_SAMPLES: Final = (("a b c d e f g h", "a " * 24), ("a", "b"), ("a b c", "c d e f g"))
_TOLERANCE: Final = {torch.float32: 1e-5, torch.float16: 5e-2, torch.bfloat16: 2e-1}


def load(checkpoint: Checkpoint, config: RerankConfig, device: Device) -> CrossEncoderFamily:
    """Load a checkpoint through sentence-transformers.

    Raises:
        ConfigError: A length that the model cannot take.
        DeviceError: The device has too little memory.
        ModelLoadError: sentence-transformers is missing, or the checkpoint is no reranker.
    """
    if config.query_max_length is not None:
        msg = "query_max_length cannot be set for the sentence-transformers family: it cuts the longer text first."
        raise ConfigError(msg)
    limit = position_limit(checkpoint.config)
    max_length = effective_max_length(config, limit)
    stopwatch = Stopwatch()
    with stopwatch.step("weights"):
        model = _open(checkpoint, config, device)
    own_length = model.max_seq_length
    if config.max_length is DEFAULT_MAX_LENGTH and isinstance(own_length, int):
        max_length = min(max_length, own_length)
    model.max_seq_length = max_length
    family = CrossEncoderFamily(model, config, device, max_length, stopwatch)
    with stopwatch.step("self-check"):
        family.check_room()
        family.choose_layout()
    return family


@dataclass(frozen=True, slots=True)
class _Row(EncodedPair):
    """A pair with whatever else sentence-transformers made for each of its tokens."""

    columns: Mapping[str, Sequence[int]] = field(default_factory=dict)


class CrossEncoderFamily(Family):
    """A sentence-transformers CrossEncoder with one score per pair.

    Args:
        model: On the device.
        config: How to lay pairs out.
        device: Where the model is.
        max_length: Most tokens of one pair, template and special tokens included.
        stopwatch: Has the times of the steps so far.
    """

    name = "sentence-transformers"

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - sentence-transformers is optional, its types too
        config: RerankConfig,
        device: Device,
        max_length: int,
        stopwatch: Stopwatch,
    ) -> None:
        self.layout: Layout = "single"
        self.max_length: int = max_length
        self.load_seconds: dict[str, float] = stopwatch.seconds
        self._model = model
        self._device = torch.device(str(device))
        self._instruction = config.instruction or ""
        self._prompt = model.prompts.get(model.default_prompt_name) if config.prompt is None else config.prompt
        self._shared: dict[str, Any] = {}
        self._literals: re.Pattern[str] | None = None
        if config.special_tokens == "plain":
            self._read_specials_as_text()
        self._left = model.tokenizer.padding_side == "left"
        forward = inspect.signature(model.transformers_model.forward).parameters
        self._takes_positions = self._left and "position_ids" in forward and model.processor is model.tokenizer

    def encode(self, pairs: Sequence[Pair]) -> list[EncodedPair]:
        """Lay pairs out as sentence-transformers does, and cut them to fit; same order."""
        first, last = (ratio * self.max_length + _LEAST_CHARACTERS for ratio in _CHARACTERS_PER_TOKEN)
        rows = self._encode(pairs, first)
        again = [i for i, row in enumerate(rows) if max(map(len, pairs[i])) > first and len(row) < self.max_length]
        for i, row in zip(again, self._encode([pairs[i] for i in again], last), strict=True):
            rows[i] = row
        return list(rows)

    def forward(self, batch: Sequence[EncodedPair]) -> Floats:
        """Run one batch; return its logits, shape (len(batch),), in the batch's order."""
        if self.layout == "padded":
            return self._run(batch)
        return np.concatenate([self._run([pair]) for pair in batch])

    def close(self) -> None:
        """Free the model's memory; safe to call twice."""
        self._model = None
        if self._device.type != "cpu":
            getattr(torch, self._device.type).empty_cache()

    def check_room(self) -> None:
        """Refuse a `max_length` that the template alone fills.

        Raises:
            ConfigError: There is no room for a query and a passage.
        """
        (empty,) = self._rows([("", "")], {"truncation": False})
        if len(empty) + 2 > self.max_length:
            msg = f"max_length={self.max_length} leaves no room: this model's template alone takes {len(empty)} tokens."
            raise ConfigError(msg)

    def choose_layout(self) -> None:
        """Pad pairs into batches from now on, if for a few of them that changes no score.

        Raises:
            ModelLoadError: The model does not give one score per pair.
        """
        samples = self.encode(_SAMPLES)
        with quiet_transformers():
            expected = np.concatenate([self._run([sample]) for sample in samples])
            difference = float(np.abs(self._run(samples) - expected).max())
        allowed = _TOLERANCE.get(self._model.dtype, 1e-5) * max(1.0, float(np.abs(expected).max()))
        if difference <= allowed:
            self.layout = "padded"
        else:
            logger.info("Pairs run one by one: padding changes scores by %.1e.", difference)

    def _encode(self, pairs: Sequence[Pair], cap: int) -> list[_Row]:
        """Encode pairs whose texts are cut to `cap` characters first."""
        rows: list[_Row] = []
        for start in range(0, len(pairs), _ROWS_AT_ONCE):
            part = pairs[start : start + _ROWS_AT_ONCE]
            texts = [(self._text(self._instruction + query, cap), self._text(passage, cap)) for query, passage in part]
            whole = self._rows(texts, {"truncation": False})
            long = [i for i, row in enumerate(whole) if len(row) > self.max_length]
            cut = self._rows([texts[i] for i in long], {"max_length": self.max_length}) if long else []
            for i, row in zip(long, cut, strict=True):
                unread = (len(part[i][1]) - cap) * len(whole[i]) // cap if len(part[i][1]) > cap else 0
                whole[i] = _Row(row.ids, truncated_tokens=len(whole[i]) - len(row) + unread, columns=row.columns)
            rows += whole
        return rows

    def _rows(self, texts: Sequence[Pair], options: dict[str, Any]) -> list[_Row]:
        """Tokenize pairs together and take each one's own tokens out of the padding."""
        with quiet_transformers():  # about lengths: what is too long is cut and reported
            features = self._model.preprocess(texts, prompt=self._prompt, processing_kwargs={"text": options})
        mask = features.pop("attention_mask").bool()
        columns = {name: value for name, value in features.items() if getattr(value, "shape", None) == mask.shape}
        self._shared = {name: value for name, value in features.items() if name not in columns}
        rows = [{name: value[i][mask[i]].tolist() for name, value in columns.items()} for i in range(len(texts))]
        return [_Row(row.pop("input_ids"), columns=row) for row in rows]

    def _run(self, batch: Sequence[EncodedPair]) -> Floats:
        """Run pairs padded to the longest; return their scores."""
        pad_id = self._model.tokenizer.pad_token_id or 0
        columns = {name: [row.columns[name] for row in batch] for name in batch[0].columns}  # type: ignore[attr-defined]
        features = {name: self._padded(rows, 0) for name, rows in columns.items()}
        features["input_ids"] = self._padded([pair.ids for pair in batch], pad_id)
        features["attention_mask"] = self._padded([[1] * len(pair) for pair in batch], 0)
        if self._takes_positions:
            # Without them a pair's positions would start behind its padding.
            features["position_ids"] = self._padded([range(len(pair)) for pair in batch], 0)
        with torch.inference_mode():
            scores = self._model({**self._shared, **features})["scores"]
        if scores.numel() != len(batch):
            msg = f"The model gives scores of shape {tuple(scores.shape)} for {len(batch)} pairs, not one per pair."
            raise ModelLoadError(msg)
        result: Floats = scores.float().reshape(len(batch)).cpu().numpy()
        return result

    def _padded(self, rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
        """Return rows in one tensor on the device, padded on the model's side."""
        table = np.full((len(rows), max(map(len, rows))), filler, dtype=np.int64)
        for line, row in zip(table, rows, strict=True):
            line[-len(row) if self._left else 0 :][: len(row)] = row
        return torch.from_numpy(table).to(self._device)

    def _text(self, text: str, cap: int) -> str:
        """Cut an oversized text, repair it, and take the meaning out of literal special tokens."""
        text = repair(text[:cap])
        return self._literals.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text) if self._literals else text

    def _read_specials_as_text(self) -> None:
        """Make a literal "</s>" or "<|im_end|>" in a text act as text.

        A chat template's own special tokens reach the tokenizer in the same string as the
        texts, so there the literals are broken up by a space; else the tokenizer sees to it.
        """
        tokenizer = self._model.tokenizer
        if "message" not in self._model[0].modality_config:
            tokenizer.split_special_tokens = True
            return
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        longest_first = sorted((token for token in special if len(token) > 1), key=len, reverse=True)
        if longest_first:
            self._literals = re.compile("|".join(map(re.escape, longest_first)))


def _open(checkpoint: Checkpoint, config: RerankConfig, device: Device) -> Any:  # noqa: ANN401 - as above
    """Load a CrossEncoder with all its weights from the checkpoint, and with one label."""
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        msg = (
            f"{config.model!r} needs sentence-transformers ({error}). "
            f'Install it with: pip install "flag-rerank-integrations[sentence-transformers]"'
        )
        raise ModelLoadError(msg) from error
    foreign = [kind for kind in checkpoint.modules if not kind.startswith("sentence_transformers.")]
    if foreign and not config.trust_remote_code:
        msg = f"{config.model!r} runs code of its own ({foreign[0]}). If you trust it, set trust_remote_code=True."
        raise ModelLoadError(msg)
    if any(kind.endswith("Pooling") for kind in checkpoint.modules):
        msg = f"{config.model!r} is an embedding model (modules.json has a Pooling module), not a reranker."
        raise ModelLoadError(msg)
    try:
        with quiet_transformers():
            model = CrossEncoder(
                str(checkpoint.path),
                device=str(device),
                trust_remote_code=config.trust_remote_code,
                local_files_only=True,
                model_kwargs={"dtype": torch_dtype(config, device), "use_safetensors": True},
            )
    except torch.OutOfMemoryError as error:
        msg = f"{config.model!r} does not fit into the free memory of {device}. Choose another device or dtype."
        raise DeviceError(msg) from error
    except Exception as error:
        line = next(iter(str(error).strip().splitlines()), "no message")
        msg = f"sentence-transformers could not load {config.model!r} ({type(error).__name__}: {line[:300]})."
        raise ModelLoadError(msg) from error
    if model.num_labels != 1:
        msg = f"{config.model!r} has {model.num_labels} labels: it is a classifier; a reranker has one."
        raise ModelLoadError(msg)
    with quiet_transformers():
        require_all_weights(model.transformers_model, checkpoint.path, config.model)
    return model.eval().requires_grad_(requires_grad=False)
