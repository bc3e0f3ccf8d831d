"""Cross-encoders with a classification head of one label: bge-reranker-base, -large, -v2-m3 and their like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

import numpy as np
import torch
import transformers
from transformers.modeling_layers import GenericForSequenceClassification

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.encoding import PairEncoder
from flag_rerank_integrations.errors import ConfigError, ModelLoadError
from flag_rerank_integrations.families.checkpoint import Checkpoint, effective_max_length, position_limit
from flag_rerank_integrations.families.decoder_stack import use_decoder_layers, use_last_token_layer
from flag_rerank_integrations.families.encoder_stack import EncoderStack
from flag_rerank_integrations.families.loading import Stopwatch, check_vocabulary, load_model, load_tokenizer
from flag_rerank_integrations.families.quantization import quantizes_after_load
from flag_rerank_integrations.families.score_head import keep_in_float32
from flag_rerank_integrations.families.torch_family import TorchFamily
from flag_rerank_integrations.packing import current_layout
from flag_rerank_integrations.pairs import EncodedPair, Pair
from flag_rerank_integrations.windows import Windows

__all__ = ["EncoderFamily", "load"]


def load(checkpoint: Checkpoint, config: RerankConfig, device: Device) -> EncoderFamily:
    """Load a sequence-classification checkpoint with one label.

    Raises:
        ConfigError: A length or a prompt that the model cannot take.
        ModelLoadError: The checkpoint is no such model.
    """
    if config.prompt is not None:
        msg = f"{config.model!r} is an encoder and takes no prompt."
        raise ConfigError(msg)
    max_length = effective_max_length(config, position_limit(checkpoint.config))
    stopwatch = Stopwatch()
    with stopwatch.step("tokenizer"):
        tokenizer = load_tokenizer(checkpoint, config)
    with stopwatch.step("weights"):
        model = load_model(transformers.AutoModelForSequenceClassification, checkpoint, config, device)
        keep_in_float32(model, checkpoint.path if checkpoint.adapter is None else None)
    check_vocabulary(model, tokenizer, config)
    if model.config.num_labels != 1:
        msg = f"{config.model!r} has {model.config.num_labels} labels: it is a classifier; a reranker has one."
        raise ModelLoadError(msg)
    encoder = PairEncoder(
        tokenizer.backend_tokenizer,
        max_length=max_length,
        query_max_length=config.query_max_length,
        special_tokens=config.special_tokens,
        token_types=_reads_token_types(model, tokenizer),
        instruction=config.instruction,
        windows=Windows.of(config),
    )
    family = EncoderFamily(model, encoder, device, stopwatch)
    with stopwatch.step("self-check"):
        family.choose_layout()
        if quantizes_after_load(config, device):
            family.quantize(config.model)
    return family


class EncoderFamily(TorchFamily):
    """A cross-encoder whose score is logit 0 of its classification head."""

    name = "encoder"

    def __init__(self, model: Any, encoder: PairEncoder, device: Device, stopwatch: Stopwatch) -> None:  # noqa: ANN401 - transformers' models share no typed base
        super().__init__(model, device, encoder.max_length, stopwatch)
        self._encoder = encoder
        self._pad_id = getattr(model.config, "pad_token_id", None) or 0
        self._position_offset = _position_offset(model)
        self._is_decoder = isinstance(model, GenericForSequenceClassification)
        if not self._is_decoder:
            _pool_pairs(model)

    def encode(self, pairs: Sequence[Pair]) -> list[EncodedPair]:
        """Tokenize pairs, each distinct text once, and cut them to fit; same order."""
        encoded = self._encoder.encode(pairs)
        return [self._cut_behind_last(pair) for pair in encoded] if self._is_decoder else encoded

    def _cut_behind_last(self, pair: EncodedPair) -> EncodedPair:
        """Drop pad tokens at the end: transformers reads a decoder's score before them."""
        real = np.flatnonzero(np.asarray(pair.ids) != self._pad_id)
        end = int(real[-1]) + 1 if len(real) else 1
        return pair if end == len(pair) else replace(pair, ids=pair.ids[:end], type_ids=(pair.type_ids or ())[:end])

    def _use_own_layers(self) -> Callable[[], None] | None:
        if self._is_decoder:
            return use_decoder_layers(self.model)
        base = self.model.base_model
        own = getattr(base, "encoder", None)
        try:
            base.encoder = EncoderStack(own)
        except AttributeError:
            return None
        return lambda: setattr(base, "encoder", own)

    def _use_own_last_layer(self) -> Callable[[], None] | None:
        return use_last_token_layer(self.model) if self._is_decoder else None

    def _run_packed(self, batch: Sequence[EncodedPair]) -> torch.Tensor:
        inputs = {
            "input_ids": self._flat([pair.ids for pair in batch]),
            "position_ids": self._flat([self._positions(pair.ids) for pair in batch]),
        }
        if self._encoder.reads_types:
            inputs["token_type_ids"] = self._flat([pair.type_ids or () for pair in batch])
        if self._is_decoder:
            return self._score_last_tokens(inputs)
        logits: torch.Tensor = self.model(**inputs).logits
        return logits.squeeze(-1)

    def _score_last_tokens(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Score with a decoder's head, which reads the last token of each pair."""
        layout = current_layout()
        assert layout is not None  # noqa: S101 - set by the only caller
        hidden = self.model.base_model(**inputs, use_cache=False).last_hidden_state[0]
        if not self._replaces_layers:
            hidden = hidden.index_select(0, layout.last_tokens(self._device))
        logits: torch.Tensor = self.model.score(hidden)
        return logits.squeeze(-1)

    def _run_padded(self, batch: Sequence[EncodedPair]) -> torch.Tensor:
        shape = (len(batch), max(map(len, batch)))
        ids = np.full(shape, self._pad_id, dtype=np.int64)
        mask, types = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for row, pair in enumerate(batch):
            ids[row, : len(pair)] = pair.ids
            mask[row, : len(pair)] = 1
            types[row, : len(pair)] = pair.type_ids or 0
        inputs = {"input_ids": self._to_device(ids), "attention_mask": self._to_device(mask)}
        if self._encoder.reads_types:
            inputs["token_type_ids"] = self._to_device(types)
        logits: torch.Tensor = self.model(**inputs).logits
        return logits.squeeze(-1)

    def _positions(self, ids: Sequence[int]) -> Sequence[int]:
        """Count positions as the model does: RoBERTa's kind skips pad ids, even ones inside a text."""
        if self._position_offset is None:
            return range(len(ids))
        real = np.asarray(ids) != self._position_offset
        positions: list[int] = (np.cumsum(real) * real + self._position_offset).tolist()
        return positions


def _reads_token_types(model: Any, tokenizer: Any) -> bool:  # noqa: ANN401 - as above
    """Tell whether token types are both made by the tokenizer and read by the model."""
    made: bool = "token_type_ids" in tokenizer.model_input_names
    return made and "token_type_ids" in signature(model.forward).parameters


def _position_offset(model: Any) -> int | None:  # noqa: ANN401 - as above
    """Return padding_idx of a model that counts positions from padding_idx + 1, else None."""
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, torch.nn.Embedding) and table.padding_idx is not None:
            return table.padding_idx
    return None


def _pool_pairs(model: Any) -> None:  # noqa: ANN401 - as above
    """Make the model's own head see a packed batch as pairs of one token each.

    Heads read the first token of each sequence, or the mean over it. In the flat sequence that
    would be the first token of the first pair alone, so the hidden states are pooled by pair
    on their way to the head: after the last layer, or after the base model where it takes means.
    """
    if getattr(model.config, "classifier_pooling", "cls") == "mean":
        model.base_model.register_forward_hook(_mean_of_pairs)
        return
    count = model.config.num_hidden_layers
    stacks = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    if stacks:
        stacks[-1][-1].register_forward_hook(_first_of_pairs)


def _first_of_pairs(_module: torch.nn.Module, _inputs: Any, output: Any) -> Any:  # noqa: ANN401 - torch's hook signature
    """Keep the first token of each pair: (1, tokens, size) becomes (pairs, 1, size)."""
    layout = current_layout()
    if layout is None:
        return output
    hidden = output[0] if isinstance(output, tuple) else output
    starts = torch.tensor(layout.starts[:-1], device=hidden.device)
    first = hidden[0].index_select(0, starts).unsqueeze(1)
    return (first, *output[1:]) if isinstance(output, tuple) else first


def _mean_of_pairs(_module: torch.nn.Module, _inputs: Any, output: Any) -> Any:  # noqa: ANN401 - torch's hook signature
    """Replace the tokens of each pair by their mean: (1, tokens, size) becomes (pairs, 1, size)."""
    layout = current_layout()
    if layout is None:
        return output
    hidden = output.last_hidden_state[0]
    means = [
        hidden[first : first + count * length].unflatten(0, (count, length)).mean(1)
        for first, count, length in layout.runs
    ]
    output.last_hidden_state = torch.cat(means).unsqueeze(1)
    return output
