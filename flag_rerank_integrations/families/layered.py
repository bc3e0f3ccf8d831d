"""What layerwise and lightweight models share: scores after many layers, and pairs that leave early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import ConfigError
from flag_rerank_integrations.families.base import Floats, LayeredFamily, State
from flag_rerank_integrations.families.causal import CausalEncoder
from flag_rerank_integrations.families.compression import Parts, compress
from flag_rerank_integrations.families.decoder import Decoder, Shape
from flag_rerank_integrations.families.heads import Heads
from flag_rerank_integrations.pairs import EncodedPair, Layout, Pair

__all__ = ["Architecture", "LayeredModel"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """One kind of layered model, as its config.json describes it."""

    name: str
    """The family's name, as in `RerankConfig.family`."""
    shape: Shape
    make_layer: Callable[[Shape, int | None], nn.Module]
    layers: range
    """The layers that have a head."""
    head_names: tuple[str, ...]
    """The names of the heads' weights: one for each of these layers, or one for all of them."""
    softcap: float | None
    """Of the scores."""
    prompt: str
    """The prompt that the model was trained with."""

    def up_to(self, config: RerankConfig) -> range:
        """Return the layers that can be read where only those up to `cutoff_layer` are loaded.

        Raises:
            ConfigError: `cutoff_layer`, or a layer of `progressive`, has no head.
        """
        last = self.layers[-1] if config.cutoff_layer is None else config.cutoff_layer
        if last not in self.layers:
            msg = f"cutoff_layer={last} cannot be read: {config.model!r} has heads at layers {shown(self.layers)}."
            raise ConfigError(msg)
        readable = self.layers[: self.layers.index(last) + 1]
        wrong = [layer for layer, _ in config.progressive or () if layer not in readable[:-1]]
        if wrong:
            possible = f"the heads are at layers {shown(readable[:-1])}" if len(readable) > 1 else "no layer has a head"
            msg = f"progressive cannot leave at layer {wrong[0]}: below cutoff_layer={last} {possible}."
            raise ConfigError(msg)
        return readable


def shown(layers: range) -> str:
    """Name a range of layers as a reader would."""
    if len(layers) == 1:
        return str(layers[0])
    return f"{layers[0]} to {layers[-1]}" + ("" if layers.step == 1 else f" in steps of {layers.step}")


class LayeredModel(LayeredFamily):
    """A decoder whose score can be read after many layers, on one device.

    Pairs lie end to end and never see each other, so that any of them can be dropped, resumed
    or shortened between two layers without a change to the others.

    Args:
        architecture: What it is.
        decoder: With the layers that are needed, on the device.
        heads: On the device.
        encoder: Lays out pairs.
        config: What to read, and which tokens to compress where.
        device: Where the model is.
        load_seconds: Seconds by step of the load; the caller may still add to it.
    """

    def __init__(  # noqa: PLR0913 - its parts
        self,
        architecture: Architecture,
        *,
        decoder: Decoder,
        heads: Heads,
        encoder: CausalEncoder,
        config: RerankConfig,
        device: Device,
        load_seconds: dict[str, float],
    ) -> None:
        self.name: str = architecture.name
        self.layout: Layout = "packed"
        self.layers: range = heads.layers
        self.max_length: int = encoder.max_length
        self.load_seconds: dict[str, float] = load_seconds
        self._encoder = encoder
        self._decoder: Decoder | None = decoder
        self._heads: Heads | None = heads
        self._model = config.model
        self._device = torch.device(str(device))
        self._ratio = config.compress_ratio
        self._compressed = frozenset(config.compress_layers if config.compress_ratio > 1 else ())
        self.state_bytes: int = architecture.shape.size * decoder.norm.weight.element_size()

    def encode(self, pairs: Sequence[Pair]) -> list[EncodedPair]:
        """Tokenize pairs, each distinct text once, and cut them to fit; same order."""
        return self._encoder.encode(pairs)

    def forward(self, batch: Sequence[EncodedPair]) -> Floats:
        """Run one batch to the last layer; return its logits, shape (len(batch),), in the batch's order."""
        scores: Floats = self.forward_layers(batch, self.layers[-1:])[:, 0]
        return scores

    def forward_layers(self, batch: Sequence[EncodedPair], layers: Sequence[int]) -> Floats:
        """Run one batch once and read it at several layers; return logits of shape (len(batch), len(layers))."""
        self.check_layers(layers)
        with torch.inference_mode():
            hidden, parts = self._embed(batch)
            scores: dict[int, Tensor] = {}
            for start, stop in _legs(layers):
                end = stop == max(layers)
                hidden, parts = self._run(hidden, parts, range(start, stop), to_last=end)
                scores[stop] = self._read(hidden if end else _last_tokens(hidden, parts), stop)
            table: Floats = torch.stack([scores[layer] for layer in layers], dim=1).cpu().numpy()
        return table

    def advance(
        self, batch: Sequence[EncodedPair], states: Sequence[State] | None, start: int, stop: int
    ) -> tuple[Floats, list[State]]:
        """Run one batch from one layer to another, and read it there.

        Args:
            batch: The pairs.
            states: Of each pair after `start` layers, as `advance` gave them; None begins anew.
            start: How many layers the states have been through; 0 where there are none.
            stop: How many they are to have been through.

        Returns:
            Logits of shape (len(batch),), and the new states, which share memory: see `compact`. None of them
            behind the last layer.
        """
        with torch.inference_mode():
            if states is None:
                hidden, parts = self._embed(batch)
            else:
                hidden = torch.cat(list(states))
                parts = [self._parts(pair, len(state)) for pair, state in zip(batch, states, strict=True)]
            end = stop == self.layers[-1]
            hidden, parts = self._run(hidden, parts, range(start, stop), to_last=end)
            logits: Floats = self._read(hidden if end else _last_tokens(hidden, parts), stop).cpu().numpy()
            return logits, [] if end else list(torch.split(hidden, [len(part) for part in parts]))

    def compact(self, states: Sequence[State]) -> list[State]:
        """Return copies of some states of a batch, so that the memory of the others is freed with them."""
        with torch.inference_mode():
            return list(torch.split(torch.cat(list(states)), [len(state) for state in states]))

    def check_layers(self, layers: Sequence[int]) -> None:
        """Refuse layers that cannot be read.

        Raises:
            ConfigError: One is out of range; the message names the range.
        """
        wrong = [layer for layer in layers if layer not in self.layers]
        if wrong:
            msg = (
                f"Layer {wrong[0]} cannot be read: {self._model!r} was loaded with its heads at layers "
                f"{shown(self.layers)}."
            )
            raise ConfigError(msg)

    def close(self) -> None:
        """Free the model's memory; safe to call twice."""
        self._decoder = self._heads = None
        if self._device.type != "cpu":
            getattr(torch, self._device.type).empty_cache()

    def _embed(self, batch: Sequence[EncodedPair]) -> tuple[Tensor, list[Parts]]:
        assert self._decoder is not None  # noqa: S101 - nothing is run after `close`
        ids = torch.from_numpy(np.concatenate([np.asarray(pair.ids, dtype=np.int64) for pair in batch]))
        return self._decoder.embed(ids.to(self._device)), [self._parts(pair, len(pair)) for pair in batch]

    def _parts(self, pair: EncodedPair, length: int) -> Parts:
        """Say how many tokens of each part a pair has left; only the passage ever gets shorter."""
        tail = self._encoder.tail_length
        return Parts(pair.head_tokens, length - pair.head_tokens - tail, tail)

    def _run(self, hidden: Tensor, parts: list[Parts], layers: range, *, to_last: bool) -> tuple[Tensor, list[Parts]]:
        """Run layers, numbered from 0; those that compress do so before they run. See `Decoder.run`."""
        assert self._decoder is not None  # noqa: S101 - as above
        start = layers.start
        for layer in sorted(self._compressed.intersection(layers)):
            hidden = self._decoder.run(hidden, [len(part) for part in parts], range(start, layer))
            hidden, parts = compress(hidden, parts, self._ratio)
            start = layer
        lengths = [len(part) for part in parts]
        return self._decoder.run(hidden, lengths, range(start, layers.stop), to_last=to_last), parts

    def _read(self, last: Tensor, layer: int) -> Tensor:
        """Return the scores of the pairs' last tokens, of shape (pairs, size)."""
        assert self._decoder is not None  # noqa: S101 - as above
        assert self._heads is not None  # noqa: S101 - as above
        return self._heads.score(layer, self._decoder.norm(last))


def _last_tokens(hidden: Tensor, parts: Sequence[Parts]) -> Tensor:
    """Pick each pair's last token out of (tokens, size)."""
    places = torch.from_numpy(np.cumsum([len(part) for part in parts]) - 1)
    return hidden.index_select(0, places.to(hidden.device))


def _legs(layers: Sequence[int]) -> list[tuple[int, int]]:
    """Return the way through some layers, in any order and more than once, as (start, stop) of each part."""
    stops = sorted(set(layers))
    return list(zip([0, *stops], stops, strict=False))
