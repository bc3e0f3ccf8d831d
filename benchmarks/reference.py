"""Plain transformers, float32, one pair at a time: the scores that all others are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.models import BenchModel
from benchmarks.workloads import MAX_LENGTH, Request

__all__ = ["OneByOne", "pair_ids", "tokenizer_of"]

# The prompt of bge-reranker-v2-gemma, from its model card.
_PROMPT: Final = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)


class OneByOne:
    """A model as transformers loads it, run on one pair after the other.

    An ONNX file is run by onnxruntime in the same way: as it is, pair by pair.
    """

    settings = "one pair a forward pass"

    def __init__(self, model: BenchModel) -> None:
        self._tokenizer = tokenizer_of(model)
        self._kind = model.kind
        self._run: Callable[[dict[str, torch.Tensor]], float] = self._runner(model)

    def _runner(self, model: BenchModel) -> Callable[[dict[str, torch.Tensor]], float]:
        if model.kind == "onnx":
            from benchmarks.onnx_graph import PlainSession

            session = PlainSession(model, 1)
            return lambda inputs: session.run({name: tensor.numpy() for name, tensor in inputs.items()})[0]
        auto: Any = AutoModelForCausalLM if model.kind == "causal" else AutoModelForSequenceClassification
        network = auto.from_pretrained(model.path, dtype=torch.float32).eval()
        if model.kind == "encoder":
            return lambda inputs: float(network(**inputs).logits.item())
        yes = self._tokenizer("Yes", add_special_tokens=False)["input_ids"][0]
        return lambda inputs: float(network(**inputs, use_cache=False, logits_to_keep=1).logits[0, -1, yes])

    @torch.inference_mode()
    def score(self, requests: Sequence[Request]) -> list[float]:
        """Score the pairs in order."""
        return [
            self._run(_tensors(self._tokenizer, self._kind, query, passage))
            for query, passages in requests
            for passage in passages
        ]

    def close(self) -> None:
        """Free the model."""
        del self._run


def tokenizer_of(model: BenchModel) -> Any:  # noqa: ANN401 - transformers' tokenizers share no typed base
    """Load the tokenizer that lies with a model."""
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    if model.kind == "onnx":  # the file's own settings pad every pair to 512 tokens
        tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def pair_ids(tokenizer: Any, kind: str, query: str, passage: str) -> list[int]:  # noqa: ANN401 - as above
    """Return the ids of one pair, special tokens and prompt included."""
    return [int(token) for token in _tensors(tokenizer, kind, query, passage)["input_ids"][0]]


def _tensors(tokenizer: Any, kind: str, query: str, passage: str) -> dict[str, torch.Tensor]:  # noqa: ANN401 - as above
    if kind != "causal":
        return dict(
            tokenizer(query, passage, truncation="only_second", max_length=MAX_LENGTH, return_tensors="pt").items()
        )
    parts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (f"A: {query}", "\n", f"B: {passage}")]
    head, separator, body = parts
    prompt = tokenizer(_PROMPT, add_special_tokens=False)["input_ids"]
    ids = [tokenizer.bos_token_id, *head, *separator, *body, *separator, *prompt]
    return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
