"""Builds small checkpoints in the published layouts: config.json, model.safetensors, tokenizer.json.

The weights are random but large enough that scores differ clearly from pair to pair:
with transformers' usual initialisation all scores of a small model are nearly equal, and
a wrong implementation could pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tiny_tokenizers import bert_tokenizer, gemma_tokenizer, xlmr_tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}


@dataclass(frozen=True)
class Spec:
    """How to build one checkpoint."""

    model_type: str
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    options: dict[str, Any] = field(default_factory=dict)
    causal: bool = False


def _gemma(model_type: str, **options: Any) -> Spec:
    grouped = {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    return Spec(model_type, gemma_tokenizer, {**grouped, **ids, **options}, causal=True)


_MODERNBERT = {
    **SIZES,
    "local_attention": 16,
    "global_attn_every_n_layers": 3,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "cls_token_id": 2,
    "sep_token_id": 3,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
SPECS = {
    "bert": Spec("bert", bert_tokenizer, {**SIZES, "max_position_embeddings": 256}),
    "xlm-roberta": Spec("xlm-roberta", xlmr_tokenizer, {**SIZES, "max_position_embeddings": 258, "type_vocab_size": 1}),
    "electra": Spec("electra", bert_tokenizer, {**SIZES, "embedding_size": 16, "max_position_embeddings": 256}),
    "distilbert": Spec(
        "distilbert", bert_tokenizer,
        {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 256},
    ),
    "modernbert": Spec("modernbert", bert_tokenizer, _MODERNBERT),
    "modernbert-mean": Spec("modernbert", bert_tokenizer, {**_MODERNBERT, "classifier_pooling": "mean"}),
    "deberta-v2": Spec(
        "deberta-v2", bert_tokenizer,
        {**SIZES, "max_position_embeddings": 256, "relative_attention": True, "position_buckets": 16,
         "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
    ),
    "qwen3-classifier": Spec(
        "qwen3", gemma_tokenizer,
        {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "pad_token_id": 0},
    ),
    "gemma": _gemma("gemma"),
    "gemma2": _gemma("gemma2", sliding_window=16, query_pre_attn_scalar=8),
    "llama": _gemma("llama"),
    "qwen3": _gemma("qwen3"),
}  # fmt: skip


def build(spec: Spec, path: Path, *, num_labels: int = 1, seed: int = 0) -> None:
    """Write one checkpoint."""
    tokenizer = spec.tokenizer()
    labels = {} if spec.causal else {"num_labels": num_labels}
    config = AutoConfig.for_model(spec.model_type, vocab_size=len(tokenizer), **labels, **spec.options)
    auto = AutoModelForCausalLM if spec.causal else AutoModelForSequenceClassification
    torch.manual_seed(seed)
    model = auto.from_config(config).eval()
    spread_weights(model)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


def spread_weights(model: torch.nn.Module) -> None:
    """Draw larger weights, so that scores of different pairs lie well apart."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.25)


class TinyModels:
    """Builds each checkpoint once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, name: str) -> str:
        path = self._root / name
        if not path.exists():
            build(SPECS[name], path)
        return str(path)
