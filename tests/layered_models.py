"""Builds small layerwise and lightweight checkpoints in exactly the published layout.

Several safetensors files with an index, the published names of weights, and a config.json that
names remote code. That code lies beside it and leaves a mark if it is ever run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_tokenizers import gemma_tokenizer

Weights = dict[str, torch.Tensor]
MARK = "remote_code_was_run"
REMOTE_CODE = f"from pathlib import Path\nPath(__file__).with_name({MARK!r}).touch()\n"
_LLAMA_NORMS = ("input_layernorm", "post_attention_layernorm")
_GEMMA_NORMS = (*_LLAMA_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")

LAYERWISE: dict[str, Any] = {
    "architectures": ["LayerWiseMiniCPMForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_minicpm_reranker.LayerWiseMiniCPMConfig",
        "AutoModelForCausalLM": "modeling_minicpm_reranker.LayerWiseMiniCPMForCausalLM",
    },
    "model_type": "minicpm",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "max_position_embeddings": 512,
    "attention_bias": False,
    "scale_emb": 12,
    "scale_depth": 1.4,
    "dim_model_base": 256,
    "start_layer": 2,
    "head_multi": True,
    "head_type": "simple",
    "bos_token_id": 2,
    "eos_token_id": 1,
    "torch_dtype": "float32",
}
LIGHTWEIGHT: dict[str, Any] = {
    "architectures": ["CostWiseGemmaForCausalLM"],
    "auto_map": {
        "AutoConfig": "gemma_config.CostWiseGemmaConfig",
        "AutoModelForCausalLM": "gemma_model.CostWiseGemmaForCausalLM",
    },
    "model_type": "cost_wise_gemma",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "query_pre_attn_scalar": 10,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "attn_logit_softcapping": 5.0,
    "final_logit_softcapping": 3.0,
    "sliding_window": 16,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "attention_bias": False,
    "start_layer": 2,
    "layer_sep": 1,
    "layer_wise": True,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "torch_dtype": "float32",
}
KINDS = {"layerwise": LAYERWISE, "lightweight": LIGHTWEIGHT}


def build(kind: str, path: Path, *, shards: int = 3, seed: int = 0, **changes: Any) -> Path:
    """Write one checkpoint; `changes` are values of its config.json."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = gemma_tokenizer()
    config = {**KINDS[kind], "vocab_size": len(tokenizer), **changes}
    tokenizer.save_pretrained(path)
    (path / "config.json").write_text(json.dumps(config, indent=2))
    for target in config["auto_map"].values():
        (path / f"{target.split('.')[0]}.py").write_text(REMOTE_CODE)
    save(make_weights(config, seed), path, shards)
    return path


def make_weights(config: dict[str, Any], seed: int = 0) -> Weights:
    """Draw weights, spread enough that scores of different pairs and layers lie well apart."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 0.25, around: float = 0.0) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale + around

    gemma = config["model_type"] == "cost_wise_gemma"
    size, inner = config["hidden_size"], config["intermediate_size"]
    head_size = config.get("head_dim", size // config["num_attention_heads"])
    width, key_width = (config[f"num_{kind}_heads"] * head_size for kind in ("attention", "key_value"))
    matrices = {
        "self_attn.q_proj": (width, size),
        "self_attn.k_proj": (key_width, size),
        "self_attn.v_proj": (key_width, size),
        "self_attn.o_proj": (size, width),
        "mlp.gate_proj": (inner, size),
        "mlp.up_proj": (inner, size),
        "mlp.down_proj": (size, inner),
    }
    around = 0.0 if gemma else 1.0
    weights = {"model.embed_tokens.weight": draw(config["vocab_size"], size, scale=0.25 if gemma else 0.05)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        weights |= {f"{prefix}.{name}.weight": draw(*shape) for name, shape in matrices.items()}
        norms = _GEMMA_NORMS if gemma else _LLAMA_NORMS
        weights |= {f"{prefix}.{name}.weight": draw(size, scale=0.1, around=around) for name in norms}
    weights["model.norm.weight"] = draw(size, scale=0.1, around=around)
    heads = range(config["start_layer"], config["num_hidden_layers"] + 1, config.get("layer_sep", 1))
    return weights | {f"lm_head.{i}.linear_head.weight": draw(1, size) for i in range(len(heads))}


def save(weights: Weights, path: Path, shards: int) -> None:
    """Write weights as the hub has them: several files, and an index of what is in which."""
    names = sorted(weights)
    where = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name].contiguous() for name in names[shard::shards]}
        save_file(part, path / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    total = sum(weight.numel() * weight.element_size() for weight in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


class LayeredModels:
    """Builds each checkpoint once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, kind: str) -> str:
        path = self._root / kind
        return str(path if path.exists() else build(kind, path))
