"""Long passages read in windows: where they lie, what the score is, what it costs."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from cross_encoder_models import build_classifier
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizers import bert_tokenizer, gemma_tokenizer, xlmr_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from flag_rerank_integrations import RerankConfig, Reranker
from flag_rerank_integrations.encoding import PairEncoder
from flag_rerank_integrations.errors import ConfigError, InputError, WorkerError
from flag_rerank_integrations.families.causal import CausalEncoder
from flag_rerank_integrations.windows import Windows

TOKENIZERS = {"bert": bert_tokenizer, "xlmr": xlmr_tokenizer, "gemma": gemma_tokenizer}
WORDS = ["panda", "bear", "China", "Berlin", "people", "live", "in", "the", "city", "of", "大熊猫", "museum"]
QUERY = "how many people live in Berlin"


def texts(count: int, most: int, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(0, most))) for _ in range(count)]


PASSAGES = texts(12, 150)
PAIRS = [(QUERY, passage) for passage in PASSAGES]


@given(st.integers(0, 3000), st.integers(1, 200), st.floats(0, 0.9), st.integers(1, 40))
def test_windows_are_full_overlap_enough_and_cover_what_is_read(
    tokens: int, room: int, overlap: float, most: int
) -> None:
    windows = Windows(overlap, most)
    spans = windows.spans(tokens, room)
    read = min(tokens, windows.reach(room))
    assert (spans[0].start, spans[-1].stop) == (0, read)
    assert len(spans) <= most
    assert {span.stop - span.start for span in spans} == {min(tokens, room)}
    for one, other in pairwise(spans):
        assert one.start < other.start <= one.stop
        assert other.start - one.start <= max(1, room * (1 - overlap))


@given(st.integers(0, 3000), st.integers(1, 200))
def test_the_head_alone_is_read_by_default(tokens: int, room: int) -> None:
    assert Windows().spans(tokens, room) == [slice(0, min(tokens, room))]


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("name", ["bert", "xlmr"])
def test_encoder_windows_are_slices_of_one_tokenization(name: str, overlap: float) -> None:
    windows = Windows(overlap, 64)
    encoder = PairEncoder(TOKENIZERS[name]().backend_tokenizer, max_length=40, windows=windows)
    query = encoder.texts.ids(QUERY)
    for passage, pair in zip(PASSAGES, encoder.encode(PAIRS), strict=True):
        ids = encoder.texts.ids(passage)
        spans = windows.spans(len(ids), 40 - encoder.template.size - len(query))
        assert [list(part.ids) for part in (pair, *pair.rest)] == [encoder.template.join(query, ids[s]) for s in spans]
        assert all(len(part.type_ids or ()) == len(part) <= 40 for part in (pair, *pair.rest))
        assert (pair.truncated_tokens, pair.truncated_query_tokens) == (0, 0)
    assert max(len(pair.rest) for pair in encoder.encode(PAIRS)) > 3


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_causal_windows_all_have_the_label_and_the_prompt(overlap: float) -> None:
    encoder = CausalEncoder(gemma_tokenizer().backend_tokenizer, bos_id=2, prompt="Yes?", windows=Windows(overlap, 64))
    encoder.cut_to(40, None)
    ids = encoder.texts.ids
    head, label, tail = [2, *ids(f"A: {QUERY}"), *ids("\n")], ids("B:"), [*ids("\n"), *ids("Yes?")]
    for passage, pair in zip(PASSAGES, encoder.encode(PAIRS), strict=True):
        text = ids(f"B: {passage}")[len(label) :]
        read: set[int] = set()
        for part in (pair, *pair.rest):
            assert list(part.ids[: len(head) + len(label)]) == [*head, *label]
            assert list(part.ids[-len(tail) :]) == tail
            assert len(part) <= encoder.max_length
            body = list(part.ids[len(head) + len(label) : -len(tail)])
            read.update(i + k for i in range(len(text)) if text[i : i + len(body)] == body for k in range(len(body)))
        assert read == set(range(len(text)))
        assert pair.truncated_tokens == 0


def by_hand(path: str, pairs: list[tuple[str, str]], length: int, overlap: float) -> list[list[float]]:
    """Logits of each window of an encoder's pairs, by transformers alone."""
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    is_bert = model.config.model_type == "bert"
    between = [end] if is_bert else [end, end]
    logits: list[list[float]] = []
    for pair in pairs:
        query, passage = (tokenizer(text, add_special_tokens=False).input_ids for text in pair)
        room = length - 2 - len(between) - len(query)
        logits.append([])
        for span in Windows(overlap, 64).spans(len(passage), room):
            first, second = [start, *query, *between], [*passage[span], end]
            inputs = {"input_ids": torch.tensor([[*first, *second]])}
            if is_bert:
                inputs["token_type_ids"] = torch.tensor([[0] * len(first) + [1] * len(second)])
            with torch.inference_mode():
                logits[-1].append(model(**inputs).logits.item())
    return logits


@pytest.mark.parametrize("name", ["bert", "xlm-roberta"])
@pytest.mark.parametrize("aggregation", ["max", "mean"])
def test_scores_are_the_aggregate_of_each_window_alone(tiny: Any, name: str, aggregation: str) -> None:
    options: Any = {"max_length": 40, "long_passages": "windows", "window_aggregation": aggregation}
    with Reranker(tiny(name), device="cpu", window_overlap=0.25, **options) as reranker:
        scores = reranker.score(PAIRS)
    logits = by_hand(tiny(name), PAIRS, 40, 0.25)
    expected = [max(parts) if aggregation == "max" else sum(parts) / len(parts) for parts in logits]
    assert scores == pytest.approx(expected, abs=3e-6)
    assert max(map(len, logits)) > 4


def test_causal_scores_are_the_best_window_of_each_passage(tiny: Any) -> None:
    path = tiny("gemma")
    with Reranker(path, device="cpu", max_length=40, long_passages="windows") as reranker:
        scores = reranker.score(PAIRS)
        encoded = reranker._executor._scorer._family.encode(PAIRS)  # type: ignore[union-attr]
    model, yes = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)("Yes").input_ids
    token = yes[1]  # behind <bos>
    for score, pair in zip(scores, encoded, strict=True):
        with torch.inference_mode():
            logits = [model(torch.tensor([part.ids])).logits[0, -1, token].item() for part in (pair, *pair.rest)]
        assert score == pytest.approx(max(logits), abs=1e-5)


@pytest.fixture(scope="module")
def reranker(tiny: Any) -> Iterator[Reranker]:
    with Reranker(tiny("bert"), device="cpu", max_length=40, long_passages="windows") as shared:
        yield shared


@pytest.fixture(scope="module")
def expected(reranker: Reranker) -> list[float]:
    return reranker.score(PAIRS)


def test_first_is_the_head_and_costs_no_more(tiny: Any) -> None:
    options: Any = {"device": "cpu", "max_length": 40}
    with Reranker(tiny("bert"), **options) as cut:
        head = cut.rank(QUERY, PASSAGES)
    with Reranker(tiny("bert"), long_passages="windows", window_aggregation="first", **options) as first:
        assert first.rank(QUERY, PASSAGES) == head
        assert first.stats().windows == first.stats().scored_pairs


@pytest.mark.parametrize("family", ["deberta-v2", "modernbert-mean"])
def test_any_layout_gives_the_same(tiny: Any, family: str) -> None:
    options: Any = {"device": "cpu", "max_length": 40, "long_passages": "windows"}
    with Reranker(tiny(family), **options) as one, Reranker(tiny(family), max_batch_tokens=1, **options) as other:
        assert one.score(PAIRS) == pytest.approx(other.score(PAIRS), abs=3e-6)


def test_windows_of_all_pairs_share_batches_and_are_counted(tiny: Any, expected: list[float]) -> None:
    options: Any = {"device": "cpu", "max_length": 40, "long_passages": "windows", "max_batch_tokens": 100_000}
    with Reranker(tiny("bert"), **options) as fresh:
        ranking = fresh.rank_many([(QUERY, PASSAGES), (QUERY, PASSAGES[:3])])[0]
        stats = fresh.stats()
        encoded = fresh._executor._scorer._family.encode(PAIRS)  # type: ignore[union-attr]
    assert stats.forward_passes == 1
    assert stats.pairs == len(PASSAGES) + 3
    assert stats.scored_pairs == len(set(PASSAGES))
    assert stats.windows == sum(1 + len(pair.rest) for pair in encoded) > 2 * len(PASSAGES)
    assert stats.windowed_pairs == sum(bool(pair.rest) for pair in encoded)
    assert stats.tokens == sum(len(part) for pair in encoded for part in (pair, *pair.rest))
    assert stats.truncated_pairs == 0
    assert {passage.truncated_tokens for passage in ranking} == {0}
    assert [p.score for p in sorted(ranking, key=lambda p: p.index)] == pytest.approx(expected, abs=3e-6)


def test_what_is_behind_the_last_window_is_told(tiny: Any, caplog: pytest.LogCaptureFixture) -> None:
    huge = "giant panda bear " * 200_000
    options: Any = {"device": "cpu", "max_length": 64, "long_passages": "windows", "max_windows": 5}
    with Reranker(tiny("xlm-roberta"), **options) as fresh, caplog.at_level(logging.WARNING):
        (long,) = fresh.rank("panda", [huge])
        stats = fresh.stats()
    assert (stats.windows, stats.windowed_pairs, stats.truncated_pairs) == (5, 1, 1)
    assert long.truncated_tokens > 200_000
    assert "max_windows above 5" in caplog.text


def test_normalize_comes_after_the_aggregate(tiny: Any, expected: list[float]) -> None:
    options: Any = {"device": "cpu", "max_length": 40, "long_passages": "windows"}
    with Reranker(tiny("bert"), normalize=True, **options) as unit:
        found = torch.tensor(unit.score(PAIRS), dtype=torch.float64)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64).sigmoid(), atol=1e-6)


def test_worker_processes_give_the_same(tiny: Any, expected: list[float]) -> None:
    options: Any = {"max_length": 40, "long_passages": "windows"}
    with Reranker(tiny("bert"), device="cpu:2", **options) as pool:
        assert pool.score(PAIRS) == pytest.approx(expected, abs=3e-6)
        assert pool.stats().windows > 2 * pool.stats().scored_pairs


async def test_concurrent_calls_each_get_their_own(reranker: Reranker, expected: list[float]) -> None:
    parts = [slice(i, i + 4) for i in range(9)]
    found = await asyncio.gather(*(reranker.ascore(PAIRS[part]) for part in parts))
    for part, scores in zip(parts, found, strict=True):
        assert scores == pytest.approx(expected[part], abs=3e-6)


async def test_cancelled_windows_are_dropped(tiny: Any, expected: list[float]) -> None:
    options: Any = {"device": "cpu", "max_length": 40, "long_passages": "windows", "max_batch_tokens": 80}
    many = [(f"{i} panda", "bear " * 400) for i in range(60)]
    with Reranker(tiny("bert"), **options) as fresh:
        task = asyncio.create_task(fresh.ascore(many))
        while fresh.stats().windows < 4:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await fresh.ascore(PAIRS) == pytest.approx(expected, abs=3e-6)
        assert fresh.stats().windows < 1000


def test_a_back_off_amid_the_windows_of_a_passage_loses_none(tiny: Any, expected: list[float]) -> None:
    options: Any = {"device": "cpu", "max_length": 40, "long_passages": "windows", "max_batch_tokens": 500}
    with Reranker(tiny("bert"), **options) as fresh:
        family: Any = fresh._executor._scorer._family  # type: ignore[union-attr]
        intact, calls = family.forward, []

        def short_of_memory(batch: Any) -> Any:
            calls.append(len(batch))
            if len(calls) > 2 and sum(map(len, batch)) > 200:
                msg = "DefaultCPUAllocator: not enough memory"
                raise RuntimeError(msg)
            return intact(batch)

        family.forward = short_of_memory
        assert fresh.score(PAIRS) == pytest.approx(expected, abs=3e-6)
        assert fresh.stats().oom_backoffs > 0


@pytest.mark.parametrize("wrong", [float("nan"), float("-inf")])
def test_one_bad_window_is_an_error_not_a_rank(tiny: Any, wrong: float) -> None:
    with Reranker(tiny("bert"), device="cpu", max_length=40, long_passages="windows") as fresh:
        family: Any = fresh._executor._scorer._family  # type: ignore[union-attr]
        intact = family.forward

        def faulty(batch: Any) -> Any:
            logits = intact(batch)
            logits[-1] = wrong
            return logits

        family.forward = faulty
        with pytest.raises(WorkerError, match="not a number"):
            fresh.score([("panda", "bear " * 100)])


def test_a_fact_at_the_end_is_found(caplog: pytest.LogCaptureFixture) -> None:
    """With the quickstart model's real weights."""
    fact = "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers."
    filler = "The weather was mild, and the train left the station on time. " * 12
    passages = [filler, filler + fact, fact, fact + " " + filler]
    options: Any = {"device": "cpu", "max_length": 96}
    with Reranker("quickstart", **options) as cut, Reranker("quickstart", long_passages="windows", **options) as whole:
        caplog.set_level(logging.WARNING)
        head = {p.index: p for p in cut.rank("How many people live in Berlin?", passages)}
        assert "long_passages='windows'" in caplog.text
        read = {p.index: p for p in whole.rank("How many people live in Berlin?", passages)}
    assert head[1].score < 0 < read[1].score
    assert head[1].truncated_tokens > 0 == read[1].truncated_tokens
    assert read[0].score < 0 < read[3].score
    assert read[2].score == head[2].score


def test_sentence_transformers_refuses(tmp_path: Path) -> None:
    path = build_classifier(tmp_path / "classifier")
    with pytest.raises(ConfigError, match=r"sentence-transformers family cannot .* windows"):
        Reranker(str(path), device="cpu", family="sentence-transformers", long_passages="windows")


def test_refused_lengths_are_refused_before_anything_runs(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu", max_length=32, long_passages="error") as strict:
        before = strict.stats().forward_passes
        with pytest.raises(InputError, match=r"passage 'bear bear .*' is \d+ tokens longer than fits"):
            strict.rank("panda", ["bear " * 100, "bear"])
        assert strict.stats().forward_passes == before


@pytest.mark.parametrize("name", ["bert", "gemma"])
def test_a_query_that_is_cut_is_told_and_counted(tiny: Any, name: str, caplog: pytest.LogCaptureFixture) -> None:
    with Reranker(tiny(name), device="cpu", max_length=40) as fresh, caplog.at_level(logging.WARNING):
        fresh.rank("panda " * 90, ["bear", "Berlin"])
        fresh.rank("panda " * 91, ["bear"])
        assert fresh.stats().truncated_queries == 3
        assert fresh.stats().truncated_pairs == 0
    assert len([record for record in caplog.records if "query" in record.message]) == 1


@pytest.mark.parametrize(
    "options, told",
    [
        ({"window_overlap": 1.0}, "window_overlap must be a share"),
        ({"window_overlap": -0.1}, "window_overlap must be a share"),
        ({"window_overlap": True}, "window_overlap must be a share"),
        ({"window_overlap": "half"}, "window_overlap must be a share"),
        ({"window_overlap": float("nan")}, "window_overlap must be a share"),
        ({"window_aggregation": "median"}, "window_aggregation must be one of"),
        ({"max_windows": 0}, "max_windows must be a whole number"),
        ({"max_windows": 2.0}, "max_windows must be a whole number"),
    ],
)
def test_wrong_options(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        RerankConfig(long_passages="windows", **options)


@pytest.mark.parametrize("name, value", [("window_overlap", 0.1), ("window_aggregation", "mean"), ("max_windows", 2)])
def test_options_of_windows_say_nothing_without_them(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name}=.* says nothing without long_passages='windows'"):
        RerankConfig.from_dict({name: value})
    assert RerankConfig.from_dict({name: value, "long_passages": "windows"}).to_dict()[name] == value
