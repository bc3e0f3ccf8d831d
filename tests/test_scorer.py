"""One scorer on one device: how many forward passes, over how many rows, in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from weight_products import WeightProducts

from flag_rerank_integrations import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.encoding_ahead import encoded_ahead
from flag_rerank_integrations.errors import ModelLoadError
from flag_rerank_integrations.families import torch_family
from flag_rerank_integrations.scorer import Scorer

PAIRS = [(f"panda {i % 3}", "the giant panda lives in China " * (1 + i % 7)) for i in range(25)]


def _scorer(path: str, **options: Any) -> Scorer:
    return Scorer(RerankConfig(model=path, device="cpu", **options), Device("cpu"))


def _rows_of(scorer: Scorer, kind: type[torch.nn.Module] = torch.nn.Linear) -> list[tuple[str, int]]:
    """Record, for each linear layer that runs from now on, its name and how many rows it is given."""
    rows: list[tuple[str, int]] = []

    def record(name: str) -> Any:
        return lambda _module, inputs, _output: rows.append((name, inputs[0].numel() // inputs[0].shape[-1]))

    for name, module in scorer._family.model.named_modules():
        if isinstance(module, kind):
            module.register_forward_hook(record(name))
    return rows


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "electra"])
def test_the_last_encoder_layer_computes_one_row_a_pair(tiny: Any, name: str) -> None:
    scorer = _scorer(tiny(name), max_batch_tokens=100_000)
    assert scorer._family.way == "own layers"
    scorer._family._lanes = None  # a dispatch mode sees its own thread only
    with WeightProducts() as products:
        scorer.score(PAIRS)
    stats = scorer.stats
    assert stats.forward_passes == 1
    size, inner = tiny_models.SIZES["hidden_size"], tiny_models.SIZES["intermediate_size"]
    whole = tiny_models.SIZES["num_hidden_layers"] - 1
    layer = [(size, 3 * size), (size, size), (size, inner), (inner, size)]
    of_all_tokens = Counter((inputs, outputs) for rows, inputs, outputs in products.found if rows == stats.tokens)
    assert of_all_tokens == Counter(dict.fromkeys(layer, whole))  # in the last layer not even keys and values
    heads = tiny_models.SIZES["num_attention_heads"]  # so many rows of each pair ask its tokens
    assert {rows for rows, _, _ in products.found} == {stats.tokens, stats.scored_pairs, heads}


@pytest.mark.parametrize("name", ["gemma", "gemma2", "llama", "qwen3", "qwen3-classifier"])
def test_the_last_decoder_layer_computes_one_row_a_pair(tiny: Any, name: str) -> None:
    scorer = _scorer(tiny(name), max_batch_tokens=100_000)
    assert scorer._family.way == "own layers"
    scorer._family._lanes = None  # each would have rows of its own
    rows = _rows_of(scorer)
    scorer.score([(f"panda {i}", passage) for i, (_, passage) in enumerate(PAIRS)])  # no query is shared
    pairs, tokens = scorer.stats.scored_pairs, scorer.stats.tokens
    last = len(scorer._family.model.base_model.layers) - 1
    found = {name.split(".")[-1]: count for name, count in rows if f"layers.{last}." in name}
    assert found == dict.fromkeys(("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), pairs) | {
        "k_proj": tokens,
        "v_proj": tokens,
    }


def test_pairs_that_fit_one_budget_are_one_forward_pass_without_padding(tiny: Any) -> None:
    scorer = _scorer(tiny("bert"), max_batch_tokens=100_000)
    scorer.score(PAIRS)
    assert scorer.stats.forward_passes == 1
    assert scorer.stats.computed_tokens == scorer.stats.tokens


@pytest.mark.parametrize("name", ["bert", "gemma"])
def test_work_under_way_while_the_host_goes_on_changes_no_score(
    tiny: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an accelerator: texts encoded in portions, one ahead, and batches read two later than begun."""
    scorer = _scorer(tiny(name), max_batch_tokens=300)
    expected = scorer.score(PAIRS)
    begun: list[int] = []
    launch = scorer._family.launch

    def noting(batch: Sequence[Any]) -> Any:
        begun.append(len(batch))
        return launch(batch)

    monkeypatch.setattr(scorer._family, "launch", noting)
    monkeypatch.setattr("flag_rerank_integrations.scorer._PAIRS_AT_A_TIME", 4)
    scorer._ahead = 2
    steps = scorer.steps(PAIRS)
    next(steps)
    assert len(begun) == 3, "the first answer is read when two more batches are under way"
    steps.close()
    again = scorer.score(PAIRS)
    assert again.truncated_tokens == expected.truncated_tokens
    assert again.logits == pytest.approx(expected.logits, abs=3e-6)


def test_out_of_memory_behind_batches_under_way(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = _scorer(tiny("bert"), max_batch_tokens=400)
    expected = scorer.score(PAIRS)
    forward, calls = scorer._family.forward, 0

    def failing(batch: Sequence[Any]) -> Any:
        nonlocal calls
        calls += 1
        if calls in (2, 4):
            raise torch.OutOfMemoryError
        return forward(batch)

    monkeypatch.setattr(scorer._family, "forward", failing)
    scorer._ahead = 2
    again = scorer.score(PAIRS)
    assert scorer.stats.oom_backoffs == 2
    assert again.logits == pytest.approx(expected.logits, abs=3e-6)


def test_portions_are_encoded_one_ahead_and_no_more() -> None:
    done: list[int] = []

    def encode(portion: int) -> int:
        done.append(portion)
        return portion * 10

    coming = encoded_ahead(encode, [1, 2, 3, 4])
    assert next(coming) == 10
    coming.close()
    assert done in ([1], [1, 2])
    assert list(encoded_ahead(encode, [5, 6, 7])) == [50, 60, 70]
    assert list(encoded_ahead(encode, [])) == []


def test_a_fault_in_encoding_ahead_reaches_the_caller() -> None:
    def encode(portion: int) -> int:
        return 1 // portion

    coming = encoded_ahead(encode, [1, 0, 1])
    assert next(coming) == 1
    with pytest.raises(ZeroDivisionError):
        next(coming)


def test_scorer_budget_is_what_was_asked_for(tiny: Any) -> None:
    assert _scorer(tiny("bert"), max_batch_tokens=77).stats.max_batch_tokens == 77
    assert _scorer(tiny("bert")).stats.max_batch_tokens == 8192


def test_large_models_get_small_batches_on_a_cpu(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = _scorer(tiny("bert"))._family._multiplied_weights()
    monkeypatch.setattr(torch_family, "_CPU_BATCH_OPERATIONS", 2 * weights * 3000)
    assert _scorer(tiny("bert")).stats.max_batch_tokens == 3000
    monkeypatch.setattr(torch_family, "_CPU_BATCH_OPERATIONS", 1)
    assert _scorer(tiny("bert")).stats.max_batch_tokens == 1024


def test_a_model_whose_layers_share_their_weights_is_scored(tmp_path: Path) -> None:
    """ALBERT's list of layers is shorter than their number."""
    options = {**tiny_models.SIZES, "embedding_size": 16}
    tiny_models.build(tiny_models.Spec("albert", tiny_models.bert_tokenizer, options), tmp_path / "albert")
    scorer = _scorer(str(tmp_path / "albert"))
    alone = [scorer.score([pair]).logits[0] for pair in PAIRS]
    assert scorer.score(PAIRS).logits == pytest.approx(alone, abs=3e-6)
    assert 1024 <= scorer.stats.max_batch_tokens <= 8192
    with pytest.raises(ModelLoadError, match="has no list of its layers"):
        _scorer(str(tmp_path / "albert"), quantization="int8")
