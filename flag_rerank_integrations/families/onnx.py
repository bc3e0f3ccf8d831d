"""Cross-encoders as ONNX graphs, run by onnxruntime: float ones and int8 ones.

Dynamic int8 quantization scales activations by the range of the whole batch, so a pair's
score would depend on its neighbours. Pairs therefore run one by one, a few at a time side by
side on a CPU; see docs/decisions/onnx-batching.md. Only a float graph on an accelerator
pads pairs into one batch, and only after it has shown at load that this changes no score.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.encoding import PairEncoder
from flag_rerank_integrations.errors import ConfigError, ModelLoadError
from flag_rerank_integrations.families.base import Family, Floats
from flag_rerank_integrations.families.checkpoint import Checkpoint, effective_max_length, position_limit
from flag_rerank_integrations.families.onnx_graph import (
    cpu_count,
    find_weights,
    is_dynamically_quantized,
    is_runtimes_own,
    open_session,
    said,
)
from flag_rerank_integrations.pairs import EncodedPair, Layout, Pair
from flag_rerank_integrations.windows import Windows

__all__ = ["OnnxFamily", "load"]

logger: Final = logging.getLogger(__name__)

_INPUTS: Final = frozenset({"input_ids", "attention_mask", "token_type_ids"})
_INTEGERS: Final = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_MOST_SIDE_BY_SIDE: Final = 8
_LONGEST_REAL_LENGTH: Final = 1_000_000
"""Tokenizer configs say "no limit" by a number far above this one."""
_SAMPLES: Final = (("a b c d e f g h", "a " * 24), ("a", "b"), ("a b c", "c d e f g"))
_TOLERANCE: Final = {"tensor(float)": 3e-6, "tensor(float16)": 5e-3}


def load(checkpoint: Checkpoint, config: RerankConfig, device: Device) -> OnnxFamily:
    """Load an ONNX cross-encoder with one score per pair.

    Raises:
        ConfigError: An option that an ONNX graph cannot take.
        DeviceError: This onnxruntime cannot run on the device.
        ModelLoadError: onnxruntime is missing, or the graph is no reranker.
    """
    _refuse_options(config)
    started = time.perf_counter()
    weights = find_weights(checkpoint.path)
    max_length = effective_max_length(config, _length_limit(checkpoint))
    tokenizer = _read_tokenizer(checkpoint.path, weights.parent)
    tokenized = time.perf_counter()
    session = open_session(weights, device)
    _check_graph(session, config.model)
    encoder = PairEncoder(
        tokenizer,
        max_length=max_length,
        query_max_length=config.query_max_length,
        special_tokens=config.special_tokens,
        token_types="token_type_ids" in {node.name for node in session.get_inputs()},
        instruction=config.instruction,
        windows=Windows.of(config),
    )
    seconds = {"tokenizer": tokenized - started, "weights": time.perf_counter() - tokenized}
    family = OnnxFamily(session, encoder, device, seconds, pad_id=int(checkpoint.config.get("pad_token_id") or 0))
    family.choose_layout(config.model, may_pad=device.kind != "cpu" and not is_dynamically_quantized(weights))
    seconds["self-check"] = time.perf_counter() - started - sum(seconds.values())
    return family


class OnnxFamily(Family):
    """A cross-encoder graph in one onnxruntime session.

    Args:
        session: On the device; its inputs and outputs have been checked.
        encoder: Lays out pairs for this model.
        device: Where the session runs.
        load_seconds: Seconds by step of the load.
        pad_id: The token to pad with, where pairs are padded at all.
    """

    name = "onnx"

    def __init__(
        self,
        session: Any,  # noqa: ANN401 - onnxruntime ships no types
        encoder: PairEncoder,
        device: Device,
        load_seconds: dict[str, float],
        *,
        pad_id: int = 0,
    ) -> None:
        self.layout: Layout = "single"
        self.max_length: int = encoder.max_length
        self.load_seconds: dict[str, float] = load_seconds
        self._session = session
        self._encoder = encoder
        self._pad_id = pad_id
        self._inputs = {node.name: _INTEGERS[node.type] for node in session.get_inputs()}
        self._output = _score_output(session)
        side_by_side = min(cpu_count(), _MOST_SIDE_BY_SIDE) if device.kind == "cpu" else 1
        self._pool = ThreadPoolExecutor(side_by_side, "flag-rerank onnx") if side_by_side > 1 else None

    def encode(self, pairs: Sequence[Pair]) -> list[EncodedPair]:
        """Tokenize pairs, each distinct text once, and cut them to fit; same order."""
        return self._encoder.encode(pairs)

    def forward(self, batch: Sequence[EncodedPair]) -> Floats:
        """Run one batch; return its logits, shape (len(batch),), in the batch's order."""
        if self.layout == "padded":
            return self._run(batch)
        if self._pool is None or len(batch) == 1:
            return np.concatenate([self._run([pair]) for pair in batch])
        one_by_one = [[pair] for pair in batch]
        try:
            scores = self._pool.map(self._run, one_by_one)
        except RuntimeError:  # at the interpreter's exit, when no pool takes tasks any more
            scores = map(self._run, one_by_one)
        return np.concatenate(list(scores))

    def close(self) -> None:
        """Free the model's memory; safe to call twice."""
        self._session = None
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def choose_layout(self, model: str, *, may_pad: bool) -> None:
        """Run a few pairs, and pad from now on where it is allowed and changes no score.

        Raises:
            ModelLoadError: The graph does not give one score per pair.
        """
        samples = self.encode(_SAMPLES)
        try:
            expected = np.concatenate([self._run([sample]) for sample in samples])
        except ModelLoadError:
            raise
        except Exception as error:
            msg = f"The ONNX graph of {model!r} does not run on a pair ({said(error)})."
            raise ModelLoadError(msg) from error
        if not may_pad:
            return
        difference = self._padding_error(samples, expected)
        if difference <= _TOLERANCE.get(self._output.type, 0.0) * max(1.0, float(np.abs(expected).max())):
            self.layout = "padded"
        else:
            logger.info("Pairs of %s run one by one: padding changes scores by %.1e.", model, difference)

    def _padding_error(self, samples: Sequence[EncodedPair], expected: Floats) -> float:
        try:
            padded = self._run(samples)
        except Exception as error:
            # A graph of fixed batch size is fine, and so is one too large for a batch; a fault of ours is neither.
            if not (isinstance(error, ModelLoadError | RuntimeError) or is_runtimes_own(error)):
                raise
            logger.info("The graph takes one pair at a time (%s).", said(error))
            return float("inf")
        return float(np.abs(padded - expected).max())

    def _run(self, batch: Sequence[EncodedPair]) -> Floats:
        """Run pairs, padded to the longest, in one call of the session."""
        try:
            (output,) = self._session.run([self._output.name], self._feeds(batch))
        except Exception as error:
            if "Failed to allocate memory" in str(error):
                # Worded as torch words it, which is how running out of memory is recognised.
                msg = f"onnxruntime can't allocate memory: {said(error)}"
                raise RuntimeError(msg) from error
            raise
        if output.size != len(batch):
            msg = f"The ONNX graph gives {output.shape} values for {len(batch)} pairs; a reranker gives one per pair."
            raise ModelLoadError(msg)
        scores: Floats = output.reshape(len(batch)).astype(np.float32)
        return scores

    def _feeds(self, batch: Sequence[EncodedPair]) -> dict[str, npt.NDArray[Any]]:
        shape = (len(batch), max(map(len, batch)))
        ids = np.full(shape, self._pad_id, dtype=np.int64)
        mask, types = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for row, pair in enumerate(batch):
            ids[row, : len(pair)] = pair.ids
            mask[row, : len(pair)] = 1
            types[row, : len(pair)] = pair.type_ids or 0
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {name: arrays[name].astype(integer, copy=False) for name, integer in self._inputs.items()}


def _refuse_options(config: RerankConfig) -> None:
    if config.prompt is not None:
        msg = f"{config.model!r} is an ONNX cross-encoder and takes no prompt."
        raise ConfigError(msg)
    if config.dtype != "auto":
        msg = f"dtype={config.dtype!r} cannot be set for {config.model!r}: an ONNX graph has its own data types."
        raise ConfigError(msg)


def _length_limit(checkpoint: Checkpoint) -> int | None:
    """Return the model's limit in tokens: from config.json, else what the tokenizer was made for."""
    limit = position_limit(checkpoint.config)
    path = checkpoint.path / "tokenizer_config.json"
    if limit is None and path.is_file():
        length = _read_json(path).get("model_max_length")
        if isinstance(length, int) and 0 < length < _LONGEST_REAL_LENGTH:
            return length
    return limit


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path.name} of the model is not readable JSON: {error}"
        raise ModelLoadError(msg) from error
    return content if isinstance(content, dict) else {}


def _read_tokenizer(*directories: Path) -> Tokenizer:
    """Read tokenizer.json from the first directory that has it."""
    path = next((d / "tokenizer.json" for d in directories if (d / "tokenizer.json").is_file()), None)
    if path is None:
        msg = f"There is no tokenizer.json in {str(directories[0])!r}: the texts cannot be tokenized."
        raise ModelLoadError(msg)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:
        msg = f"{str(path)!r} could not be read ({said(error)})."
        raise ModelLoadError(msg) from error


def _score_output(session: Any) -> Any:  # noqa: ANN401 - as above
    """Return the graph's output of scores: the one named logits, or the only one."""
    outputs = session.get_outputs()
    return next((output for output in outputs if output.name == "logits"), outputs[0])


def _check_graph(session: Any, model: str) -> None:  # noqa: ANN401 - as above
    """Refuse a graph that is no cross-encoder, as far as its signature tells.

    Raises:
        ModelLoadError: Its inputs are not ids and masks, or its output is not one score a pair.
    """
    inputs = session.get_inputs()
    names = {node.name for node in inputs}
    if "input_ids" not in names or not names <= _INPUTS or any(node.type not in _INTEGERS for node in inputs):
        msg = (
            f"The ONNX graph of {model!r} reads {', '.join(sorted(names))}; a cross-encoder reads token ids and masks."
        )
        raise ModelLoadError(msg)
    if any(isinstance(length, int) for node in inputs for length in node.shape[1:]):
        msg = f"The ONNX graph of {model!r} reads one fixed length only; export it with a dynamic sequence axis."
        raise ModelLoadError(msg)
    output = _score_output(session)
    rank, last = len(output.shape), output.shape[-1] if output.shape else 1
    if output.name != "logits" and (rank > 2 or last != 1):  # noqa: PLR2004 - (pairs, 1)
        msg = (
            f"The ONNX graph of {model!r} gives {output.name} of shape {output.shape}, not one score per pair: "
            f"it is an embedding or base model, not a reranker."
        )
        raise ModelLoadError(msg)
    if rank > 2:  # noqa: PLR2004 - as above
        msg = f"The ONNX graph of {model!r} gives logits of shape {output.shape}; a reranker gives one per pair."
        raise ModelLoadError(msg)
    if rank == 2 and isinstance(last, int) and last != 1:  # noqa: PLR2004 - as above
        msg = f"The ONNX graph of {model!r} has {last} labels: it is a classifier; a reranker has one."
        raise ModelLoadError(msg)
