"""Batched, packed scores equal those of plain transformers, one pair at a time."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from flag_rerank_integrations import Reranker

ENCODERS = ["bert", "xlm-roberta", "electra", "distilbert", "modernbert", "modernbert-mean", "deberta-v2"]
DECODER_CLASSIFIERS = ["qwen3-classifier"]
CAUSAL = ["gemma", "gemma2", "llama", "qwen3"]
PACKED = {*ENCODERS, *DECODER_CLASSIFIERS, *CAUSAL} - {"deberta-v2"}
TOLERANCE = 3e-6
EXACT = {"bert", "xlm-roberta", "gemma"}
PROMPT = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing "
    "a prediction of either 'Yes' or 'No'."
)
WORDS = [
    "panda",
    "bear",
    "China",
    "Berlin",
    "people",
    "live",
    "in",
    "the",
    "city",
    "of",
    "art",
    "museum",
    "3,520,031",
    "inhabitants",
    "大熊猫",
    "a",
    "<pad>",
    "</s>",
    "[SEP]",
    "[PAD]",
    "<bos>",
    "<eos>",
]


def _text(rng: random.Random, most: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(0, most)))


def _pairs(count: int = 40) -> list[tuple[str, str]]:
    rng = random.Random(7)
    pairs = [(_text(rng, 10), _text(rng, 70)) for _ in range(count)]
    return [*pairs, ("", ""), ("panda", ""), ("", "panda"), ("panda", "panda " * 400), pairs[0]]


def _reference_encoder(path: str, pairs: list[tuple[str, str]], length: int, mode: str) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(path, split_special_tokens=mode == "plain")
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    if "token_type_ids" in tokenizer.model_input_names and model.config.model_type in ("modernbert", "distilbert"):
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    scores = []
    for query, passage in pairs:
        inputs = tokenizer([query], [passage], truncation="only_second", max_length=length, return_tensors="pt")
        with torch.no_grad():
            scores.append(model(**inputs).logits[0, 0].item())
    return scores


def _reference_causal(path: str, pairs: list[tuple[str, str]], length: int, mode: str) -> list[float]:
    """The layout of the published package, and the whole vocabulary's logits at every position."""
    tokenizer = AutoTokenizer.from_pretrained(path, split_special_tokens=mode == "plain")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    separator, prompt, yes = ids("\n"), ids(PROMPT), ids("Yes")[0]
    scores = []
    for query, passage in pairs:
        first = [tokenizer.bos_token_id, *ids(f"A: {query}")[: length * 3 // 4]]
        second = [*separator, *ids(f"B: {passage}")[:length]]
        body = first + second[: length + len(separator) + len(prompt) - len(first)]
        with torch.no_grad():
            logits: Any = model(torch.tensor([body + separator + prompt])).logits
        scores.append(logits[0, -1, yes].item())
    return scores


def _largest_difference(scores: list[float], expected: list[float]) -> float:
    assert len(scores) == len(expected)
    return max(abs(a - b) for a, b in zip(scores, expected, strict=True))


def _allowed(name: str, expected: list[float]) -> float:
    """Absolute for the models the promise is made for, relative to the largest score for the rest."""
    return TOLERANCE if name in EXACT else TOLERANCE * max(1.0, *map(abs, expected))


@pytest.mark.parametrize("mode", ["plain", "parse"])
@pytest.mark.parametrize("name", [*ENCODERS, *DECODER_CLASSIFIERS, *CAUSAL])
def test_scores_equal_transformers_one_by_one(tiny: Any, name: str, mode: str) -> None:
    path, length, pairs = tiny(name), 120, _pairs()
    reference = _reference_causal if name in CAUSAL else _reference_encoder
    expected = reference(path, pairs, length, mode)
    with Reranker(path, device="cpu", max_length=length, special_tokens=mode) as reranker:
        scores = reranker.score(pairs)
        stats = reranker.stats()
    assert max(expected) - min(expected) > 0.1, "the reference must tell pairs apart"
    assert _largest_difference(scores, expected) <= _allowed(name, expected)
    assert stats.layout == ("packed" if name in PACKED else "padded")
    if name in PACKED:
        assert stats.computed_tokens == stats.tokens
        assert stats.padding_fraction == 0


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "gemma"])
def test_order_and_budget_do_not_change_scores(tiny: Any, name: str) -> None:
    pairs = _pairs()
    shuffled = random.Random(1).sample(pairs, len(pairs))
    by_budget = []
    for budget in (1, 64, 100_000):
        with Reranker(tiny(name), device="cpu", max_batch_tokens=budget) as reranker:
            by_budget.append(reranker.score(pairs))
            again = dict(zip(shuffled, reranker.score(shuffled), strict=True))
            assert _largest_difference(by_budget[-1], [again[pair] for pair in pairs]) <= TOLERANCE
    for scores in by_budget[1:]:
        assert _largest_difference(scores, by_budget[0]) <= TOLERANCE


def test_padded_fallback_equals_packed(tiny: Any) -> None:
    """The same model through both layouts, each forced."""
    pairs = _pairs()
    for name in ("bert", "xlm-roberta", "gemma", "modernbert"):
        with Reranker(tiny(name), device="cpu") as reranker:
            packed = reranker.score(pairs)
            family = reranker._executor._scorer._family
            assert family.use("padded")
            padded = reranker.score(pairs)
            assert family.layout == "padded"
        assert _largest_difference(packed, padded) <= _allowed(name, packed)


def test_no_tensor_has_the_size_of_the_vocabulary(tiny: Any) -> None:
    """A causal reranker computes one row of the head, at one position."""
    with Reranker(tiny("gemma"), device="cpu") as reranker:
        family = reranker._executor._scorer._family
        vocabulary = family.model.config.vocab_size
        widths: set[int] = set()
        for module in family.model.modules():
            module.register_forward_hook(lambda _m, _i, output: widths.update(_last_sizes(output)))
        reranker.score(_pairs())
    assert len(widths) > 2
    assert vocabulary not in widths


def _last_sizes(output: Any) -> list[int]:
    if isinstance(output, torch.Tensor):
        return [output.shape[-1]]
    values = output.values() if hasattr(output, "values") else output if isinstance(output, tuple) else ()
    return [size for value in values for size in _last_sizes(value)]
