"""Layers in 8-bit integers on a CPU."""

from __future__ import annotations

import logging
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


def test_a_row_of_zeros_and_large_values_stay_finite() -> None:
    layer = Int8Linear(torch.zeros(8, 16), None)
    outputs = layer(torch.stack([torch.zeros(16), torch.full((16,), 1e30)]))
    assert torch.isfinite(outputs).all()


def test_weights_stay_small_where_sums_of_products_would_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_linear, "weight_range", lambda: 63)
    assert Int8Linear(torch.randn(8, 16), None).quantized.abs().max() == 63


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "modernbert", "gemma", "qwen3-classifier"])
def test_scores_stay_close_and_independent_of_their_batch(tiny: Any, name: str) -> None:
    with Reranker(tiny(name), device="cpu") as plain, Reranker(tiny(name), device="cpu", quantization="int8") as int8:
        expected, scores = plain.score(PAIRS), int8.score(PAIRS)
        alone = [int8.score([pair])[0] for pair in PAIRS]
        layers = int8._executor._scorer._family._layers()
    assert any(isinstance(module, Int8Linear) for module in layers.modules())
    assert not any(type(module) is torch.nn.Linear for module in layers.modules())
    assert scores == pytest.approx(alone, abs=1e-5)
    # Random weights, on a vocabulary that is not the same in every run, and 7 bits where a CPU has no VNNI: some
    # pairs lie further off than those of a trained model would. A wrong product is off by about 1.
    scale = max(1, *map(abs, expected))
    errors = [abs(score - right) / scale for score, right in zip(scores, expected, strict=True)]
    assert max(errors) <= 0.4
    assert sum(errors) / len(errors) <= 0.1
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
