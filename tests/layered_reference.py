"""The maths of layerwise and lightweight rerankers once more: slow, in float64, one pair and one head at a time.

Written from the published description, not from the package under test: rotations are complex
products, attention is a loop, compression a loop over groups.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

LAYERWISE_PROMPT = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing "
    "a prediction of either 'Yes' or 'No'."
)
LIGHTWEIGHT_PROMPT = "Predict whether passage B contains an answer to query A."


class Reference:
    """One checkpoint in float64."""

    def __init__(self, path: Path | str) -> None:
        self.config: dict[str, Any] = json.loads((Path(path) / "config.json").read_text())
        self.gemma = self.config["model_type"] == "cost_wise_gemma"
        self.weights: dict[str, torch.Tensor] = {}
        for file in Path(path).glob("*.safetensors"):
            self.weights |= {name: weight.double() for name, weight in load_file(file).items()}
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(path, split_special_tokens=True)
        self.prompt = LIGHTWEIGHT_PROMPT if self.gemma else LAYERWISE_PROMPT

    def ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def layout(self, query: str, passage: str, max_length: int) -> tuple[list[int], int, int]:
        """Ids of a pair, and how many of them are query and prompt."""
        separator, prompt = self.ids("\n"), self.ids(self.prompt)
        first = [self.config["bos_token_id"], *self.ids(f"A: {query}")[: max_length * 3 // 4]]
        second = [*separator, *self.ids(f"B: {passage}")[:max_length]]
        body = first + second[: max_length + len(separator) + len(prompt) - len(first)]
        return body + separator + prompt, len(first) + len(separator), len(separator) + len(prompt)

    def scores(
        self,
        pair: tuple[str, str],
        layers: Sequence[int],
        *,
        max_length: int = 256,
        ratio: int = 1,
        compress_layers: Sequence[int] = (),
        matched: bool = False,
    ) -> list[float]:
        """The score after each of some layers."""
        ids, head, tail = self.layout(*pair, max_length)
        hidden = self.weights["model.embed_tokens.weight"][ids]
        hidden = hidden * (math.sqrt(self.config["hidden_size"]) if self.gemma else self.config["scale_emb"])
        found = {}
        for layer in range(max(layers) + 1):
            if layer in layers:
                found[layer] = self.read(hidden[-1], layer, matched=matched)
            if layer == max(layers):
                break
            if ratio > 1 and layer in compress_layers:
                hidden = compressed(hidden, head, tail, ratio)
            hidden = self.layer(hidden, layer)
        return [found[layer] for layer in layers]

    def read(self, last: torch.Tensor, layer: int, *, matched: bool) -> float:
        row = (layer - self.config["start_layer"]) // self.config.get("layer_sep", 1)
        if self.gemma and not matched:
            row = 0
        score = float(self.weights[f"lm_head.{row}.linear_head.weight"][0] @ self.norm(last, "model.norm"))
        cap = self.config.get("final_logit_softcapping")
        return cap * math.tanh(score / cap) if cap else score

    def layer(self, hidden: torch.Tensor, number: int) -> torch.Tensor:
        prefix = f"model.layers.{number}"
        attended = self.attention(self.norm(hidden, f"{prefix}.input_layernorm"), number)
        if self.gemma:
            hidden = hidden + self.norm(attended, f"{prefix}.post_attention_layernorm")
            inner = self.feedforward(self.norm(hidden, f"{prefix}.pre_feedforward_layernorm"), prefix)
            return hidden + self.norm(inner, f"{prefix}.post_feedforward_layernorm")
        scale = self.config["scale_depth"] / math.sqrt(self.config["num_hidden_layers"])
        hidden = hidden + scale * attended
        return hidden + scale * self.feedforward(self.norm(hidden, f"{prefix}.post_attention_layernorm"), prefix)

    def norm(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        weight = self.weights[f"{name}.weight"] + (1 if self.gemma else 0)
        return weight * hidden / (hidden.square().mean(-1, keepdim=True) + self.config["rms_norm_eps"]).sqrt()

    def feedforward(self, hidden: torch.Tensor, prefix: str) -> torch.Tensor:
        gate, up, down = (self.weights[f"{prefix}.mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        opened = hidden @ gate.T
        if self.gemma:
            inner = math.sqrt(2 / math.pi) * (opened + 0.044715 * opened**3)
            opened = 0.5 * opened * (1 + inner.tanh())
        else:
            opened = opened * opened.sigmoid()
        return (opened * (hidden @ up.T)) @ down.T

    def attention(self, hidden: torch.Tensor, number: int) -> torch.Tensor:
        prefix = f"model.layers.{number}.self_attn"
        heads, key_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        query, key, value = (
            (hidden @ self.weights[f"{prefix}.{name}_proj.weight"].T).unflatten(1, (count, -1))
            for name, count in (("q", heads), ("k", key_heads), ("v", key_heads))
        )
        query, key = self.rotated(query), self.rotated(key)
        scale = 1 / math.sqrt(self.config.get("query_pre_attn_scalar", query.shape[-1]))
        cap = self.config.get("attn_logit_softcapping")
        window = self.config.get("sliding_window") if number % 2 == 0 else None
        output = torch.zeros_like(query)
        for head in range(heads):
            shared = head // (heads // key_heads)
            for i in range(len(hidden)):
                first = 0 if window is None else max(0, i - window + 1)
                products = key[first : i + 1, shared] @ query[i, head] * scale
                if cap:
                    products = cap * (products / cap).tanh()
                output[i, head] = products.softmax(0) @ value[first : i + 1, shared]
        return output.flatten(1) @ self.weights[f"{prefix}.o_proj.weight"].T

    def rotated(self, heads: torch.Tensor) -> torch.Tensor:
        half = heads.shape[-1] // 2
        theta = self.config.get("rope_theta", 10000.0)
        frequencies = theta ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.arange(len(heads), dtype=torch.float64)[:, None, None] * frequencies
        turned = torch.complex(heads[..., :half], heads[..., half:]) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((turned.real, turned.imag), -1)


def compressed(hidden: torch.Tensor, head: int, tail: int, ratio: int) -> torch.Tensor:
    """Means of the passage's tokens, `ratio` at a time."""
    passage = hidden[head : len(hidden) - tail]
    means = [passage[i : i + ratio].mean(0) for i in range(0, len(passage), ratio)]
    return torch.cat([hidden[:head], torch.stack(means), hidden[len(hidden) - tail :]])
