"""Checkpoints of the published rerankers' true shapes with random weights, written where they are measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from flag_rerank_integrations.demo.corpus import harvest

__all__ = ["FAMILIES", "build"]

FAMILIES: Final = ("encoder", "causal", "layerwise", "lightweight")
_SPECIALS: Final = ["<s>", "<pad>", "</s>", "<unk>"]
# config.json of bge-reranker-v2-m3, -v2-gemma, -v2-minicpm-layerwise and -v2.5-gemma2-lightweight, as far as sizes go.
_SHAPES: Final[dict[str, dict[str, Any]]] = {
    "encoder": {
        "model_type": "xlm-roberta",
        "vocab_size": 250_002,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "max_position_embeddings": 8194,
        "type_vocab_size": 1,
        "num_labels": 1,
    },
    "causal": {
        "model_type": "gemma",
        "vocab_size": 256_000,
        "hidden_size": 2048,
        "num_hidden_layers": 18,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "intermediate_size": 16_384,
        "max_position_embeddings": 8192,
    },
    "layerwise": {
        "architectures": ["LayerWiseMiniCPMForCausalLM"],
        "model_type": "minicpm",
        "vocab_size": 122_753,
        "hidden_size": 2304,
        "num_hidden_layers": 40,
        "num_attention_heads": 36,
        "num_key_value_heads": 36,
        "intermediate_size": 5760,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "max_position_embeddings": 2048,
        "attention_bias": False,
        "scale_emb": 12,
        "scale_depth": 1.4,
        "dim_model_base": 256,
        "start_layer": 8,
        "head_multi": True,
        "head_type": "simple",
    },
    "lightweight": {
        "architectures": ["CostWiseGemmaForCausalLM"],
        "model_type": "cost_wise_gemma",
        "vocab_size": 256_000,
        "hidden_size": 3584,
        "num_hidden_layers": 42,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "intermediate_size": 14_336,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
        "max_position_embeddings": 8192,
        "attention_bias": False,
        "start_layer": 8,
        "layer_sep": 1,
        "layer_wise": True,
    },
}
_SMALL: Final[dict[str, Any]] = {
    "hidden_size": 64,
    "num_hidden_layers": 10,
    "intermediate_size": 128,
    "vocab_size": 4096,
}
_SMALL_HEADS: Final = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "query_pre_attn_scalar": 16}


def build(family: str, path: Path, device: str, *, small: bool) -> Path:
    """Write a checkpoint in the layout in which the model is published.

    Args:
        family: One of `FAMILIES`.
        path: The directory; what is there already is taken as it is.
        device: Where to draw the weights.
        small: A toy of the same architecture, for trying the script out.
    """
    if (path / "config.json").is_file():
        return path
    shape = dict(_SHAPES[family])
    if small:
        shape |= _SMALL | {name: value for name, value in _SMALL_HEADS.items() if name in shape}
    shape |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    path.mkdir(parents=True, exist_ok=True)
    _tokenizer().save_pretrained(path)
    torch.manual_seed(0)
    if "architectures" in shape:
        _save_layered(shape, path, device)
    else:
        _save_plain(shape, path, device)
    return path


def _save_plain(shape: dict[str, Any], path: Path, device: str) -> None:
    """Have transformers draw the weights, in the data type that they will run in."""
    # With the usual 0.02 the scores of a shallow toy are nearly equal, and no difference would show.
    shape["initializer_range"] = shape["hidden_size"] ** -0.5
    config = AutoConfig.for_model(shape.pop("model_type"), **shape, dtype="bfloat16")
    auto: Any = AutoModelForSequenceClassification if "num_labels" in shape else AutoModelForCausalLM
    with torch.device(device):
        auto.from_config(config, dtype=torch.bfloat16).save_pretrained(path)


def _save_layered(shape: dict[str, Any], path: Path, device: str) -> None:
    """Draw the weights layer by layer: one file for each, and an index."""
    where: dict[str, str] = {}
    for number, part in enumerate(_parts(shape)):
        file = f"model-{number:05}.safetensors"
        norm = 0.0 if shape["model_type"] == "cost_wise_gemma" else 1.0  # Gemma adds 1 to it
        drawn = {name: _draw(size, norm, device) for name, size in part.items()}
        save_file(drawn, path / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (path / "config.json").write_text(json.dumps({**shape, "torch_dtype": "bfloat16"}))


def _draw(size: tuple[int, ...], norm: float, device: str) -> torch.Tensor:
    """Draw a matrix whose products keep the size of what they are given; a norm changes nothing."""
    if len(size) == 1:
        return torch.full(size, norm, dtype=torch.bfloat16)
    return torch.randn(size, device=device, dtype=torch.bfloat16).mul_(size[1] ** -0.5).cpu()


def _parts(shape: dict[str, Any]) -> Iterator[dict[str, tuple[int, ...]]]:
    """Yield names and shapes of the weights: what is not a layer's first, then each layer's."""
    size, inner = shape["hidden_size"], shape["intermediate_size"]
    head = shape.get("head_dim") or size // shape["num_attention_heads"]
    width, key_width = (shape[f"num_{kind}_heads"] * head for kind in ("attention", "key_value"))
    count = shape["num_hidden_layers"] - shape["start_layer"] + 1
    rest: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape["vocab_size"], size)}
    yield rest | {"model.norm.weight": (size,)} | {f"lm_head.{i}.linear_head.weight": (1, size) for i in range(count)}
    norms = ["input_layernorm", "post_attention_layernorm"]
    if shape["model_type"] == "cost_wise_gemma":
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    matrices = {
        "self_attn.q_proj": (width, size),
        "self_attn.k_proj": (key_width, size),
        "self_attn.v_proj": (key_width, size),
        "self_attn.o_proj": (size, width),
        "mlp.gate_proj": (inner, size),
        "mlp.up_proj": (inner, size),
        "mlp.down_proj": (size, inner),
    }
    for layer in range(shape["num_hidden_layers"]):
        of_layer = {**matrices, **dict.fromkeys(norms, (size,))}
        yield {f"model.layers.{layer}.{name}.weight": wanted for name, wanted in of_layer.items()}


def _tokenizer() -> Any:  # noqa: ANN401 - transformers' tokenizers share no typed base
    """A small byte-level tokenizer trained on the standard library's docstrings, with XLM-R's layout of pairs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=_SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((entry.text for entry in harvest()), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )
