"""Layers in 8-bit integers on a CPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import ConfigError, ModelLoadError
from flag_rerank_integrations.families import int8_linear, torch_family
from flag_rerank_integrations.families.int8_linear import Int8Linear

PAIRS = [(f"panda {i % 3}", "the giant panda lives in China " * (1 + i % 7)) for i in range(25)]


@pytest.mark.parametrize("rows", [1, 5, 600])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_product_is_that_of_the_rounded_factors(rows: int, with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight, inputs = torch.randn(48, 64, generator=generator), torch.randn(rows, 64, generator=generator)
    bias = torch.randn(48, generator=generator) if with_bias else None
    layer = Int8Linear(weight, bias)
    scale = (inputs.abs().amax(1, keepdim=True) / 127).double()
    rounded = (inputs / scale.float()).round().double() * scale
    exact = rounded @ (layer.quantized.double() * layer.scale.double()[:, None]).t() + (0 if bias is None else bias)
    assert (layer(inputs).double() - exact).abs().max() < 1e-4
    assert (layer.quantized.double() * layer.scale.double()[:, None] - weight).abs().max() <= layer.scale.max() / 2


@pytest.fixture
def anew() -> Iterator[None]:
    """Let it be tried again which product torch has, and once more afterwards."""
    int8_linear._has_scaled_product.cache_clear()
    yield
    int8_linear._has_scaled_product.cache_clear()


@pytest.mark.usefixtures("anew")
def test_without_onednns_product_the_plain_one_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_arguments: object) -> None:
        raise AttributeError

    monkeypatch.setattr(int8_linear, "weight_range", lambda: 63)
    weight, bias, inputs = torch.randn(48, 64), torch.randn(48), torch.randn(5, 64)
    layer = Int8Linear(weight, bias)
    found = layer(inputs)
    monkeypatch.setattr(int8_linear, "_scaled_product", missing)
    int8_linear._has_scaled_product.cache_clear()
    plain = Int8Linear(weight, bias)
    assert not plain.weight.is_mkldnn
    assert torch.equal(plain.quantized, layer.quantized)
    expected = torch.empty(5, 48)
    plainly(plain, inputs, expected)
    assert torch.allclose(plain(inputs), expected, atol=1e-4)
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_row_of_zeros_and_large_values_stay_finite() -> None:
    layer = Int8Linear(torch.zeros(8, 16), None)
    outputs = layer(torch.stack([torch.zeros(16), torch.full((16,), 1e30)]))
    assert torch.isfinite(outputs).all()


def test_weights_stay_small_where_sums_of_products_would_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_linear, "weight_range", lambda: 63)
    assert Int8Linear(torch.randn(8, 16), None).quantized.abs().max() == 63


def plainly(layer: Int8Linear, rows: torch.Tensor, place: torch.Tensor) -> None:
    """The same rounding, and then the product in float64."""
    scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    product = (rows / scale).round().double() @ layer.quantized.double().t()
    bias = 0 if layer.bias is None else layer.bias.double()
    place.copy_(product * scale.double() * layer.scale.double() + bias)


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "modernbert", "gemma", "qwen3-classifier"])
def test_scores_are_those_of_the_rounded_model_whatever_shares_their_batch(
    tiny: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Reranker(tiny(name), device="cpu") as plain, Reranker(tiny(name), device="cpu", quantization="int8") as int8:
        expected, scores = plain.score(PAIRS), int8.score(PAIRS)
        alone = [int8.score([pair])[0] for pair in PAIRS]
        layers = int8._executor._scorer._family._layers()
        monkeypatch.setattr(Int8Linear, "_multiply", plainly)
        rounded = int8.score(PAIRS)
    assert any(isinstance(module, Int8Linear) for module in layers.modules())
    assert not any(type(module) is torch.nn.Linear for module in layers.modules())
    assert scores == pytest.approx(alone, abs=1e-5)
    scale = max(1, *map(abs, expected))
    off = [abs(one - two) / scale for one, two in zip(scores, rounded, strict=True)]
    # A last bit can round an input of a later layer to the next whole number, which few pairs meet.
    assert sum(off) / len(off) <= 0.01
    assert max(off) <= 0.05
    # What rounding itself costs depends on the CPU: 7 bits without VNNI. It stays within what a model is refused for.
    assert scores == pytest.approx(expected, abs=torch_family._INT8_TOLERANCE * scale)
    assert scores != expected


def test_a_model_that_does_not_bear_it_is_refused(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_family, "_INT8_TOLERANCE", 1e-9)
    with pytest.raises(ModelLoadError, match="8-bit"):
        Reranker(tiny("bert"), device="cpu", quantization="int8")


def test_a_cpu_on_which_it_is_not_worth_it_is_told(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch_family, "int8_gain", lambda _shapes: 0.9)
    with caplog.at_level(logging.WARNING), Reranker(tiny("bert"), device="cpu", quantization="int8"):
        assert "0.9 times as fast" in caplog.text


def test_families_without_it_refuse_it() -> None:
    with pytest.raises(ConfigError, match="quantization"):
        Reranker("quickstart", device="cpu", quantization="int8")
