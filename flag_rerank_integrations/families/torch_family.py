"""What encoder and causal families share: batches to tensors, and the choice of a layout.

A layout is used only after it has proved itself: at load a few made-up pairs go through
it and through the model one by one, and the scores must agree. Some architectures ignore a
registered attention function and return wrong scores without an error; this finds them.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import torch

from flag_rerank_integrations.attention import PACKED
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import ModelLoadError
from flag_rerank_integrations.families.base import Family, Floats
from flag_rerank_integrations.families.int8_linear import int8_gain, quantize_linears
from flag_rerank_integrations.families.lanes import Lanes, adapts_to_length
from flag_rerank_integrations.families.loading import Stopwatch, quiet_transformers
from flag_rerank_integrations.packing import PackedLayout, packed, to_device
from flag_rerank_integrations.pairs import EncodedPair, Layout, Pair

__all__ = ["TorchFamily", "Way"]

logger: Final = logging.getLogger(__name__)

_TOLERANCE: Final = {torch.float32: 1e-5, torch.float16: 5e-2, torch.bfloat16: 2e-1}
Way = Literal["own layers", "own last layer", "packed", "padded"]
_WAYS: Final[tuple[Way, ...]] = ("own layers", "own last layer", "packed", "padded")
# 8-bit weights move a score by some hundredths; more than this is another model.
_INT8_TOLERANCE: Final = 0.2
_LEAST_INT8_GAIN: Final = 1.2
# One run of so many tokens shows how much memory a token takes.
_TRIAL_TOKENS: Final = 4096
_TRIAL_LENGTH: Final = 512
# On a CPU products of more rows are faster, but nothing can be cancelled within a batch: so many
# operations take it some seconds at most. Where every layer takes fresh memory, page faults eat up
# what larger batches gain.
_CPU_BATCH_OPERATIONS: Final = 10**12
_CPU_BATCH_TOKENS: Final = (1024, 8192)
_CPU_BATCH_TOKENS_IN_FRESH_MEMORY: Final = (1024, 2048)
# Attention takes as long as all other products for a pair of three times the model's width in tokens: by
# operations for one of six times, but it reaches half their rate.
_ATTENTION_WIDTHS: Final = 3
_CHECK_LENGTHS: Final = (24, 11, 11, 7)
_LONGEST_WINDOW_TO_CHECK: Final = 512


class TorchFamily(Family, ABC):
    """A transformers model on one device.

    Args:
        model: Loaded, in evaluation mode, on the device.
        device: Where the model is.
        max_length: Most tokens of one pair, special tokens included.
        stopwatch: Has the times of the steps so far.
    """

    name: str

    def __init__(self, model: Any, device: Device, max_length: int, stopwatch: Stopwatch) -> None:  # noqa: ANN401 - transformers' models share no typed base
        self.model: Any = model
        self.max_length: int = max_length
        self.load_seconds: dict[str, float] = stopwatch.seconds
        self.layout: Layout = "single"
        self.way: Way = "padded"
        self._put_back: Callable[[], None] | None = None
        self._device = torch.device(str(device))
        self._lanes = Lanes() if self._device.type == "cpu" and not adapts_to_length(model.config) else None
        if getattr(model.config, "attn_logit_softcapping", None) is not None:
            model.set_attn_implementation("eager")  # transformers' `sdpa` leaves the cap out, and may be its default
        self._width: int = getattr(model.config, "hidden_size", None) or model.get_input_embeddings().embedding_dim
        self._own_attention = model.config._attn_implementation  # noqa: SLF001 - the only place it is told

    @abstractmethod
    def encode(self, pairs: Sequence[Pair]) -> list[EncodedPair]:
        """Tokenize pairs and cut them to fit; same order."""

    @abstractmethod
    def _run_packed(self, batch: Sequence[EncodedPair]) -> torch.Tensor:
        """Return the logits of pairs that lie end to end, shape (pairs,)."""

    def _layout(self, batch: Sequence[EncodedPair]) -> PackedLayout:
        """Return how the pairs lie in one flat sequence."""
        return PackedLayout.of([len(pair) for pair in batch])

    @abstractmethod
    def _run_padded(self, batch: Sequence[EncodedPair]) -> torch.Tensor:
        """Return the logits of pairs padded to the longest, shape (pairs,)."""

    def forward(self, batch: Sequence[EncodedPair]) -> Floats:
        """Run one batch; return its logits, shape (len(batch),), in the batch's order."""
        lanes = self._lanes
        if lanes is None or self.layout != "packed":
            return self._forward(batch)
        shares = self._shares(batch, lanes)
        if len(shares) == 1:
            return self._forward(batch)
        found = lanes.run([partial(self._forward, [batch[i] for i in share]) for share in shares])
        scores = np.empty(len(batch), dtype=np.float32)
        scores[np.concatenate(shares)] = np.concatenate(found)
        return scores

    def _shares(self, batch: Sequence[EncodedPair], lanes: Lanes) -> list[list[int]]:
        """Divide a batch among lanes."""

        def cost(share: Sequence[int]) -> float:
            layout = self._layout([batch[i] for i in share])
            return self._cost(layout.tokens, layout.attended)

        return lanes.shares([self._cost(len(pair), len(pair) ** 2) for pair in batch], cost)

    def _cost(self, tokens: int, attended: int) -> float:
        """Return how long tokens and so many products of attention take on a CPU; a token by itself is the unit."""
        return tokens + attended / (_ATTENTION_WIDTHS * self._width)

    def _forward(self, batch: Sequence[EncodedPair]) -> Floats:
        """Run one batch in this thread."""
        with torch.inference_mode():
            scores: Floats = self._run(batch, self.layout).float().cpu().numpy()
        return scores

    def launch(self, batch: Sequence[EncodedPair]) -> Callable[[], Floats]:
        """Begin one batch, and return what waits for its logits: on CUDA the host goes on meanwhile."""
        if self._device.type != "cuda":
            return super().launch(batch)
        with torch.inference_mode():
            logits = self._run(batch, self.layout).float()
            host = torch.empty(logits.shape, dtype=torch.float32, pin_memory=True)
            host.copy_(logits, non_blocking=True)
        done = torch.cuda.current_stream(self._device).record_event()

        def read() -> Floats:
            done.synchronize()
            scores: Floats = host.numpy()
            return scores

        return read

    def fitting_tokens(self) -> int | None:
        """Return how many tokens a batch may have.

        On CUDA as many as half of the free memory holds, by one trial run; on a CPU as many as take some seconds.
        """
        if self._device.type == "cpu":
            least, most = _CPU_BATCH_TOKENS if self.way == "own layers" else _CPU_BATCH_TOKENS_IN_FRESH_MEMORY
            return min(most, max(least, _CPU_BATCH_OPERATIONS // (2 * self._multiplied_weights())))
        if self._device.type != "cuda":
            return None
        generator = np.random.default_rng(0)
        length = min(self.max_length, _TRIAL_LENGTH)
        pair = EncodedPair(self._made_up(generator, length), [0] * length)
        batch = [pair] * (_TRIAL_TOKENS // length)
        try:
            used = self._peak_memory(batch)
        except torch.OutOfMemoryError:
            return length
        free, _ = torch.cuda.mem_get_info(self._device)
        return max(length, free // 2 * length * len(batch) // max(1, used))

    def _multiplied_weights(self) -> int:
        """Return how many weights every token is multiplied with: all but embeddings and heads."""
        body = self.model.base_model
        weights: int = sum(parameter.numel() for parameter in body.parameters())
        looked_up: int = sum(m.weight.numel() for m in body.modules() if isinstance(m, torch.nn.Embedding))
        return max(1, weights - looked_up)

    def _peak_memory(self, batch: Sequence[EncodedPair]) -> int:
        """Return the bytes that one batch takes on top of the weights."""
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self.forward(batch)
        return torch.cuda.max_memory_allocated(self._device) - before

    def close(self) -> None:
        """Free the model's memory; safe to call twice."""
        self.model = None
        if self._lanes is not None:
            self._lanes.close()
        if self._device.type != "cpu":
            getattr(torch, self._device.type).empty_cache()

    def choose_layout(self) -> None:
        """Take the first way to compute whose scores equal those of the model as it was loaded, pair by pair."""
        samples = self._samples()
        with torch.inference_mode(), quiet_transformers():
            expected = torch.cat([self._run_padded([sample]) for sample in samples]).float()
            for way in _WAYS:
                if not self.use(way):
                    continue
                reason = self._difference(samples, self.layout, expected)
                if not reason:
                    return
                logger.info("%s does not compute in the way %r: %s", type(self.model).__name__, way, reason)
        self.layout = "single"

    def use(self, way: Way) -> bool:
        """Compute in one way from now on; tell whether this model has it, not whether it is right."""
        if self._put_back is not None:
            self._put_back()
            self._put_back = None
        self._set_attention(self._own_attention if way == "padded" else PACKED)
        self.way, self.layout = way, "padded" if way == "padded" else "packed"
        if not self._replaces_layers:
            return True
        self._put_back = self._use_own_layers() if way == "own layers" else self._use_own_last_layer()
        return self._put_back is not None

    @property
    def _replaces_layers(self) -> bool:
        """Whether layers of ours are in use, which leave nothing but the scored tokens at the end."""
        return self.way in {"own layers", "own last layer"}

    def quantize(self, name: str) -> None:
        """Turn the layers' weights into 8-bit integers, on a CPU.

        Args:
            name: The model's, for messages.

        Raises:
            ModelLoadError: Its scores would not survive.
        """
        samples, layers = self._samples(), self._layers()
        with torch.inference_mode():
            expected = self._run(samples, self.layout).float()
            shapes = {(m.out_features, m.in_features) for m in layers.modules() if isinstance(m, torch.nn.Linear)}
            quantize_linears(layers)
            self._put_back = None
            error = float((self._run(samples, self.layout).float() - expected).abs().max())
        allowed = _INT8_TOLERANCE * max(1.0, float(expected.abs().max()))
        if not error <= allowed:
            msg = f"{name!r} does not bear 8-bit weights: scores differ by {error:.1e}. Leave quantization out."
            raise ModelLoadError(msg)
        gain = int8_gain(shapes)
        if gain < _LEAST_INT8_GAIN:
            logger.warning(
                "On this CPU %s is only %.1f times as fast in int8 as in float32: not worth its error.", name, gain
            )

    def _layers(self) -> torch.nn.ModuleList:
        """Return the model's stack of layers, which holds nearly all of its weights."""
        count = self.model.config.num_hidden_layers
        for module in self.model.modules():
            if isinstance(module, torch.nn.ModuleList) and len(module) == count:
                return module
        msg = f"{type(self.model).__name__} has no list of its layers, so they cannot be quantized here."
        raise ModelLoadError(msg)

    def _use_own_layers(self) -> Callable[[], None] | None:
        """Put layers of ours, which compute less, in the model's place; return what puts the model's back."""
        return None

    def _use_own_last_layer(self) -> Callable[[], None] | None:
        """Do so with the last layer alone."""
        return None

    def _run(self, batch: Sequence[EncodedPair], layout: Layout) -> torch.Tensor:
        if layout == "single":
            return torch.cat([self._run_padded([pair]) for pair in batch])
        if layout == "padded":
            return self._run_padded(batch)
        with packed(self._layout(batch)) as where:
            logits = self._run_packed(batch)
            if where.calls == 0:
                msg = "the model does not call the registered attention function"
                raise RuntimeError(msg)
        return logits

    def _difference(self, samples: Sequence[EncodedPair], layout: Layout, expected: torch.Tensor) -> str:
        """Say why a layout cannot be used for this model, or return "" where it can."""
        try:
            scores = self._run(samples, layout).float()
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            return f"{type(error).__name__}: {error}"
        if scores.shape != expected.shape:
            return f"{tuple(scores.shape)} scores for {len(samples)} pairs"
        worst = float((scores - expected).abs().max())
        allowed = _TOLERANCE[self.model.dtype] * max(1.0, float(expected.abs().max()))
        return "" if worst <= allowed else f"scores differ by {worst:.1e}"

    def _set_attention(self, implementation: str) -> None:
        if self.model.config._attn_implementation != implementation:  # noqa: SLF001 - as above
            self.model.set_attn_implementation(implementation)

    def _samples(self) -> list[EncodedPair]:
        """Make up pairs of several lengths, one of them beyond any short attention window."""
        generator = np.random.default_rng(0)
        window = getattr(self.model.config, "sliding_window", None) or 0
        longest = 2 * window + 8 if window <= _LONGEST_WINDOW_TO_CHECK else 0
        lengths = [min(length, self.max_length) for length in (max(longest, 31), *_CHECK_LENGTHS)]
        return [EncodedPair(self._made_up(generator, length), [0] * length) for length in lengths]

    def _made_up(self, generator: np.random.Generator, length: int) -> list[int]:
        ids: list[int] = generator.integers(0, self.model.get_input_embeddings().num_embeddings, length).tolist()
        return ids

    def _flat(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Lay rows end to end in a tensor of shape (1, tokens) on the device."""
        flat = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
        return self._to_device(flat[None])

    def _to_device(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        return to_device(torch.from_numpy(array), self._device)
