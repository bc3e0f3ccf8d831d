"""Decoder layers of ours: their parts against plain formulas, and when they are used."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from attention_formula import expected_attention
from torch.nn import functional
from transformers import activations
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from weight_products import WeightProducts

from flag_rerank_integrations import RerankConfig
from flag_rerank_integrations.attention import AttentionRule
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.families import decoder_layer
from flag_rerank_integrations.families.activations import in_place
from flag_rerank_integrations.families.causal_attention import attend_behind
from flag_rerank_integrations.families.linear_layers import merged
from flag_rerank_integrations.families.workspace import Workspace
from flag_rerank_integrations.packing import PackedLayout
from flag_rerank_integrations.scorer import Scorer

PAIRS = [(f"panda {i}", "the giant panda lives in China " * (1 + i % 7)) for i in range(12)]
DECODERS = ["gemma", "gemma2", "llama", "qwen3", "qwen3-classifier"]


def _family(path: str) -> Any:
    return Scorer(RerankConfig(model=path, device="cpu"), Device("cpu"))._family


def _in_float64(family: Any, encoded: Any) -> np.ndarray[Any, Any]:
    """Score pairs one by one with the model's own layers in float64 (but for a head that is always float32)."""
    family.use("padded")
    family.model.double()
    head = family.model.get_output_embeddings()
    if head is not None:
        head.float()
    with torch.inference_mode():
        return np.array([float(family._run_padded([pair])) for pair in encoded])


@pytest.mark.parametrize("name", DECODERS)
def test_all_layers_are_ours_and_as_exact_as_the_models(tiny: Any, name: str) -> None:
    family = _family(tiny(name))
    assert family.way == "own layers"
    encoded = family.encode(PAIRS)
    ours = family.forward(encoded)
    assert family.use("padded")
    family.layout = "single"
    theirs = family.forward(encoded)
    exact = _in_float64(family, encoded)
    scale = max(1.0, float(abs(exact).max()))
    off = float(abs(theirs - exact).max())  # up to 9e-6 with these weights, wide apart as they are
    assert abs(ours - exact).max() <= max(3e-6 * scale, 1.5 * off)
    assert abs(ours - theirs).max() <= 6e-6 * scale


@pytest.mark.parametrize("name", DECODERS)
def test_one_product_makes_query_key_and_value(tiny: Any, name: str) -> None:
    family = _family(tiny(name))
    encoded = family.encode(PAIRS)
    with WeightProducts() as products:
        family._forward(encoded)
    size, inner = tiny_models.SIZES["hidden_size"], tiny_models.SIZES["intermediate_size"]
    whole = tiny_models.SIZES["num_hidden_layers"] - 1
    tokens = sum(map(len, encoded))
    heads = 4 * 8, 2 * 8
    layer = Counter([(size, heads[0] + 2 * heads[1]), (heads[0], size), (size, inner), (size, inner), (inner, size)])
    found = Counter((inputs, outputs) for rows, inputs, outputs in products.found if rows == tokens)
    assert found == Counter({shape: count * whole for shape, count in layer.items()})


def test_a_layer_of_another_build_keeps_all_but_the_last(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_layers: Any) -> None:
        raise AttributeError

    monkeypatch.setattr(decoder_layer, "merged", refuse)
    family = _family(tiny("llama"))
    assert family.way == "own last layer"
    assert family.fitting_tokens() == 2048


def test_layers_that_compute_something_else_are_not_used(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a model that rotates neighbouring features instead of halves."""

    def another(heads: torch.Tensor, _cosines: Any, _sines: Any, place: torch.Tensor) -> None:
        place.copy_(heads)

    monkeypatch.setattr(decoder_layer, "_rotate", another)
    assert _family(tiny("llama")).way == "own last layer"


def test_other_data_types_keep_the_models_layers(tiny: Any) -> None:
    scorer = Scorer(RerankConfig(model=tiny("llama"), device="cpu", dtype="bfloat16"), Device("cpu"))
    assert scorer._family.way == "own last layer"


@pytest.mark.parametrize("lengths", [[1], [5, 5, 3], [127, 128, 129], [300, 2]])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("options", [{}, {"window": 3}, {"window": 140}, {"softcap": 2.0, "scaling": 0.3}])
def test_attention_equals_the_plain_formula(
    lengths: list[int], heads: tuple[int, int], options: dict[str, Any]
) -> None:
    _check_attention(
        PackedLayout.of(lengths), [(s, s, e) for s, e in pairwise(PackedLayout.of(lengths).starts)], heads, options
    )


@pytest.mark.parametrize("heads", [(4, 2), (3, 1)])
@pytest.mark.parametrize("options", [{}, {"window": 4}])
def test_rests_see_the_head_they_share(heads: tuple[int, int], options: dict[str, Any]) -> None:
    layout = PackedLayout.sharing([(7, [130, 3]), (0, [4])])
    _check_attention(layout, [(0, 0, 7), (0, 7, 137), (0, 137, 140), (140, 140, 144)], heads, options)


def _check_attention(
    layout: PackedLayout, segments: list[tuple[int, int, int]], heads: tuple[int, int], options: dict[str, Any]
) -> None:
    """Compare each segment, given as (its head's start, its start, its end), with the plain formula."""
    groups, size = heads[1], 8
    generator = torch.Generator().manual_seed(layout.tokens)
    query = torch.randn(groups, layout.tokens, heads[0] // groups, size, generator=generator)
    key, value = (torch.randn(groups, layout.tokens, size, generator=generator) for _ in range(2))
    rule = AttentionRule(causal=True, **options)
    space = Workspace()
    found = attend_behind(query, key, value, layout, rule, space).view(layout.tokens, heads[0], size)
    shared = next((end for head, start, end in segments if head == start), 0)
    by_head = query.transpose(1, 2).reshape(heads[0], layout.tokens, size).double()
    for head, start, end in segments:
        seen = (
            torch.arange(start, end) if head == start else torch.cat([torch.arange(shared), torch.arange(start, end)])
        )
        expected = expected_attention(
            by_head[:, seen] * (options.get("scaling", size**-0.5) * size**0.5),
            key[:, seen].double(),
            value[:, seen].double(),
            causal=True,
            window=options.get("window"),
            cap=options.get("softcap"),
        )[:, len(seen) - (end - start) :]
        torch.testing.assert_close(found[start:end].transpose(0, 1).double(), expected, atol=2e-6, rtol=0)
    assert layout.calls == 1


@pytest.mark.parametrize("name", ["gelu", "gelu_pytorch_tanh", "silu", "relu"])
def test_activations_in_place_are_the_models(name: str) -> None:
    inputs = torch.linspace(-30, 30, 2000).view(4, 500)
    module = activations.ACT2FN[name]
    expected = module(inputs.double()) if name != "relu" else inputs.clamp(min=0).double()
    found = in_place(module, Workspace())(inputs.clone())
    assert (found.double() - expected).abs().max() < 2e-6


def test_a_large_activation_is_computed_in_pieces() -> None:
    inputs = torch.randn(600, 500)
    space = Workspace()
    found = in_place(activations.ACT2FN["gelu_pytorch_tanh"], space)(inputs.clone())
    assert (found - functional.gelu(inputs, approximate="tanh")).abs().max() < 2e-6
    assert sum(buffer.numel() for buffer in space._buffers.values()) <= 2**17


@pytest.mark.parametrize("kind", [GemmaRMSNorm, LlamaRMSNorm])
def test_norms_are_the_models(kind: type[torch.nn.Module]) -> None:
    module = kind(16, eps=1e-3)
    with torch.no_grad():
        module.weight.add_(torch.randn(16))
    norm = decoder_layer._Norm(module)
    rows = torch.randn(5, 16)
    with torch.inference_mode():
        expected = module(rows)
        assert torch.allclose(norm(rows, Workspace()), expected, atol=1e-6)
        assert torch.allclose(norm.apply(rows.clone()), expected, atol=1e-6)


def test_a_merged_layer_is_all_of_them_and_nothing_is_in_memory_twice() -> None:
    layers = [torch.nn.Linear(6, outputs) for outputs in (4, 2, 2)]
    rows = torch.randn(3, 6)
    expected = torch.cat([layer(rows) for layer in layers], 1)
    whole = merged(*layers)
    assert torch.allclose(whole(rows), expected)
    assert torch.allclose(torch.cat([layer(rows) for layer in layers], 1), expected)
    assert {layer.weight.untyped_storage().data_ptr() for layer in layers} == {
        whole.weight.untyped_storage().data_ptr()
    }


def test_layers_that_cannot_be_merged_are_left() -> None:
    with pytest.raises(AttributeError, match="bias"):
        merged(torch.nn.Linear(6, 4), torch.nn.Linear(6, 4, bias=False))
    with pytest.raises(AttributeError, match="plain"):
        merged(SimpleNamespace(weight=torch.zeros(4, 6, dtype=torch.int8)))  # type: ignore[arg-type]
