"""Half precision and fewer bits: what stays in float32, what is refused, and what the libraries really do.

The tests marked `quantization` run torchao and bitsandbytes, which work on CPUs as well; the
package allows them on accelerators only, so there the devices that are allowed are widened.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny_models import SPECS, build
from transformers import AutoModelForSequenceClassification

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import ConfigError
from flag_rerank_integrations.families import quantization

PAIRS = [("panda", "a bear of China"), ("how many people?", "Berlin has a population"), ("", "of art"), ("x", "")]
ENCODERS = ["bert", "xlm-roberta", "electra", "distilbert", "modernbert", "deberta-v2", "qwen3-classifier"]


def family_of(reranker: Reranker) -> Any:
    return reranker._executor._scorer._family  # type: ignore[union-attr]


def head_of(model: Any) -> dict[str, torch.Tensor]:
    base = {id(parameter) for parameter in model.base_model.parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in base}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ENCODERS)
def test_heads_of_encoders_stay_in_float32(tiny: Any, name: str, dtype: str) -> None:
    stored = load_file(str(Path(tiny(name)) / "model.safetensors"))
    with Reranker(tiny(name), device="cpu", dtype=dtype) as half, Reranker(tiny(name), device="cpu") as full:
        model = family_of(half).model
        assert {str(p.dtype) for p in model.base_model.parameters()} == {f"torch.{dtype}"}
        head = head_of(model)
        assert head
        for own, parameter in head.items():
            assert parameter.dtype == torch.float32
            assert torch.equal(parameter, stored[own]), "as precise as in the file"
        scores = half.score(PAIRS)
        assert scores == pytest.approx(full.score(PAIRS), abs=0.15)
        assert half.stats().layout == full.stats().layout
    rounded = np.array(scores, dtype=np.float32)
    assert (torch.tensor(rounded).to(getattr(torch, dtype)).float().numpy() != rounded).any(), "logits are not rounded"


@pytest.mark.parametrize("name", ["gemma", "qwen3"])
def test_heads_of_language_models_are_float32(tiny: Any, name: str) -> None:
    with Reranker(tiny(name), device="cpu", dtype="bfloat16") as half:
        assert family_of(half).model.get_output_embeddings().weight.dtype == torch.float32
        assert all(isinstance(score, float) for score in half.score(PAIRS))


def adapted(tiny: Any, path: Path) -> Path:
    model = AutoModelForSequenceClassification.from_pretrained(tiny("bert"))
    wrapped = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "modules_to_save" in name:
                parameter.mul_(-3)
    wrapped.save_pretrained(path)
    return path


def test_an_adapters_head_is_float32_too(tiny: Any, tmp_path: Path) -> None:
    path = adapted(tiny, tmp_path / "adapter")
    with Reranker(path, device="cpu", dtype="bfloat16") as half, Reranker(path, device="cpu") as full:
        assert {parameter.dtype for parameter in head_of(family_of(half).model).values()} == {torch.float32}
        assert half.score(PAIRS) == pytest.approx(full.score(PAIRS), abs=0.15)


@pytest.mark.parametrize("name", ["bert", "gemma"])
def test_four_bits_on_a_cpu_are_refused(tiny: Any, name: str) -> None:
    with pytest.raises(ConfigError, match="quantization='int4' is for accelerators"):
        Reranker(tiny(name), device="cpu", quantization="int4")


@pytest.mark.parametrize("bits, library", [("int8", "torchao"), ("int4", "bitsandbytes")])
def test_a_missing_library_is_named_with_its_extra(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, bits: str, library: str
) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: None if name == library else sys.__spec__)
    monkeypatch.setattr(quantization, "_OURS", frozenset())
    monkeypatch.setattr(quantization, "_check_device", lambda *_: None)
    with pytest.raises(ConfigError, match=rf"needs {library}\. Install .*\[quantization\]"):
        Reranker(tiny("bert"), device="cpu", quantization=bits)


@pytest.mark.parametrize("kind", ["mps", "npu"])
def test_other_accelerators_are_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match="only on cuda and xpu devices"):
        quantization._check_device("int4", Device(kind, 0))  # type: ignore[arg-type]


def test_families_and_adapters_that_cannot(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is of the onnx family"):
        Reranker("quickstart", device="cpu", quantization="int8")
    with pytest.raises(ConfigError, match="merged into whole weights"):
        Reranker(adapted(tiny, tmp_path / "adapter"), device="cpu", quantization="int8")


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "_OURS", frozenset())
    monkeypatch.setattr(quantization, "_check_device", lambda *_: None)


@pytest.fixture
def wide(tmp_path: Path) -> Any:
    """Checkpoints whose rows are whole blocks of 64 weights, as those of real models are."""

    def make(name: str) -> str:
        spec = SPECS[name]
        wider = {"hidden_size": 128, "intermediate_size": 128}
        if "head_dim" in spec.options:
            wider["head_dim"] = 32
        build(replace(spec, options={**spec.options, **wider}), tmp_path / name)
        return str(tmp_path / name)

    return make


def quantized_weights(model: Any) -> dict[str, torch.Tensor]:
    """The quantized weights of a model by name, as the numbers that they stand for."""
    found = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if type(weight).__name__ == "Int8Tensor":
            found[name] = weight.dequantize()
        elif type(weight).__name__ == "Params4bit":
            eye = torch.eye(module.in_features, dtype=module.compute_dtype)
            bias, module.bias = module.bias, None
            found[name] = module(eye).T.clone()
            module.bias = bias
    return found


@pytest.mark.quantization
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("bits", ["int8", "int4"])
@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "modernbert", "qwen3-classifier", "gemma", "qwen3"])
def test_scores_are_those_of_the_numbers_the_weights_stand_for(wide: Any, name: str, bits: str) -> None:
    """Whatever quantization does to random weights, nothing else is changed: the heads least of all."""
    path = wide(name)
    with Reranker(path, device="cpu", quantization=bits) as fewer, Reranker(path, device="cpu") as full:
        for reranker in (fewer, full):
            assert family_of(reranker).use("packed")  # the model's own layers: both have the same names then
        model, plain = family_of(fewer).model, family_of(full).model
        with torch.inference_mode():
            weights = quantized_weights(model)
        inside = {n for n, module in model.base_model.named_modules() if "Linear" in type(module).__name__}
        prefix = f"{model.base_model_prefix}."
        assert {n.removeprefix(prefix) for n in weights} <= inside
        assert len(weights) >= 0.9 * len(inside)
        before, scores = full.score(PAIRS), fewer.score(PAIRS)
        with torch.no_grad():
            for n, weight in weights.items():
                own = plain.get_submodule(n).weight
                assert 0 < (own - weight).abs().max() < 0.5 * own.abs().max()
                own.copy_(weight)
        near, far = (float(np.abs(np.subtract(scores, other)).max()) for other in (full.score(PAIRS), before))
    # On CPUs bitsandbytes itself computes in bfloat16.
    assert near <= (1e-3 if bits == "int8" else far / 2), f"{near} from the numbers, {far} from the whole weights"
    assert far > 1e-3


@pytest.mark.quantization
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bits", ["int8", "int4"])
@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "modernbert", "qwen3-classifier"])
def test_quantized_scores_do_not_depend_on_neighbours(wide: Any, name: str, bits: str, dtype: str) -> None:
    with Reranker(wide(name), device="cpu", quantization=bits, dtype=dtype) as fewer:
        assert {parameter.dtype for parameter in head_of(family_of(fewer).model).values()} == {torch.float32}
        alone = [fewer.score([pair])[0] for pair in PAIRS]
        assert fewer.score(PAIRS) == pytest.approx(alone, abs=1e-4 if dtype == "float32" else 0.2)
