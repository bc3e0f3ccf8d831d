from __future__ import annotations

import asyncio
import copy
import gc
import logging
import math
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flag_rerank_integrations import RankedPassage, RerankConfig, Reranker, RerankStats
from flag_rerank_integrations.errors import ConfigError, InputError, RerankError, WorkerError, WorkerTimeout

QUERY = "How many people live in Berlin?"
PASSAGES = [
    "Berlin has a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
    "New York City is famous for the Metropolitan Museum of Art.",
    "Berlin is well known for its museums.",
    "The giant panda is a bear species endemic to China.",
]


@pytest.fixture(scope="module")
def reranker(tiny: Any) -> Any:
    with Reranker(tiny("bert"), device="cpu") as live:
        yield live


def test_score_gives_plain_floats(reranker: Reranker) -> None:
    scores = reranker.score([(QUERY, passage) for passage in PASSAGES])
    assert [type(score) for score in scores] == [float] * 4
    assert len(set(scores)) == 4


def test_rank_is_score_sorted(reranker: Reranker) -> None:
    scores = reranker.score([(QUERY, passage) for passage in PASSAGES])
    ranking = reranker.rank(QUERY, PASSAGES)
    assert ranking == [RankedPassage(i, scores[i], 0) for i in sorted(range(4), key=lambda i: -scores[i])]


@pytest.mark.parametrize("top_n, expected", [(None, 4), (0, 0), (1, 1), (3, 3), (99, 4)])
def test_top_n(reranker: Reranker, top_n: int | None, expected: int) -> None:
    assert reranker.rank(QUERY, PASSAGES, top_n=top_n) == reranker.rank(QUERY, PASSAGES)[:expected]


def test_threshold_comes_before_top_n_and_keeps_equals(reranker: Reranker) -> None:
    ranking = reranker.rank(QUERY, PASSAGES)
    assert reranker.rank(QUERY, PASSAGES, score_threshold=ranking[1].score) == ranking[:2]
    assert reranker.rank(QUERY, PASSAGES, top_n=1, score_threshold=ranking[1].score) == ranking[:1]
    assert reranker.rank(QUERY, PASSAGES, score_threshold=ranking[0].score + 1) == []


def test_rank_many_is_rank_of_each(reranker: Reranker) -> None:
    requests = [(QUERY, PASSAGES), ("panda", PASSAGES[2:]), ("nothing", []), (QUERY, PASSAGES[:1])]
    expected = [reranker.rank(query, passages, top_n=2) for query, passages in requests]
    found = reranker.rank_many(requests, top_n=2)
    assert [[p.index for p in ranking] for ranking in found] == [[p.index for p in r] for r in expected]
    for ranking, wanted in zip(found, expected, strict=True):
        assert [p.score for p in ranking] == pytest.approx([p.score for p in wanted], abs=3e-6)


async def test_async_equals_sync(reranker: Reranker) -> None:
    pairs = [(QUERY, passage) for passage in PASSAGES]
    assert await reranker.ascore(pairs) == pytest.approx(reranker.score(pairs), abs=3e-6)
    assert [p.index for p in await reranker.arank(QUERY, PASSAGES)] == [p.index for p in reranker.rank(QUERY, PASSAGES)]
    many = await reranker.arank_many([(QUERY, PASSAGES), ("panda", [])], top_n=1)
    assert [len(ranking) for ranking in many] == [1, 0]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([*PASSAGES, "", "panda"]), max_size=12))
def test_ranking_is_stable_and_complete(reranker: Reranker, passages: list[str]) -> None:
    ranking = reranker.rank("panda", passages)
    assert sorted(p.index for p in ranking) == list(range(len(passages)))
    keys = [(-p.score, p.index) for p in ranking]
    assert keys == sorted(keys)


def test_equal_pairs_are_scored_once(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu") as fresh:
        scores = fresh.score([(QUERY, PASSAGES[0])] * 50 + [(QUERY, PASSAGES[1])])
        stats = fresh.stats()
    assert len(set(scores[:50])) == 1
    assert (stats.pairs, stats.scored_pairs, stats.forward_passes) == (51, 2, 1)


def test_what_fits_one_budget_is_one_forward_pass(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu", max_batch_tokens=100_000) as fresh:
        before = fresh.stats()
        fresh.score([(f"query {i}", f"passage {i} " * (1 + i % 20)) for i in range(200)])
        stats = fresh.stats()
    assert before.forward_passes == 0
    assert stats.forward_passes == 1
    assert stats.computed_tokens == stats.tokens


@pytest.mark.parametrize("empty", [[], (), iter([])])
def test_empty_input_gives_empty_output(reranker: Reranker, empty: Any) -> None:
    passes = reranker.stats().forward_passes
    assert reranker.score(empty) == []
    assert reranker.rank(QUERY, empty) == []
    assert reranker.rank_many(empty) == []
    assert reranker.stats().forward_passes == passes


def test_generators_and_lists_as_pairs(reranker: Reranker) -> None:
    expected = reranker.score([(QUERY, p) for p in PASSAGES])
    assert reranker.score((QUERY, p) for p in PASSAGES) == expected
    assert reranker.score([[QUERY, p] for p in PASSAGES]) == expected  # type: ignore[list-item]
    assert [p.index for p in reranker.rank(QUERY, iter(PASSAGES))] == [p.index for p in reranker.rank(QUERY, PASSAGES)]


BAD_PAIRS = ["text", b"bytes", None, 7, [("one",)], [("a", "b", "c")], ["ab"], [("a", None)], [(1, "b")], [None]]


@pytest.mark.parametrize("pairs", BAD_PAIRS, ids=repr)
def test_bad_pairs(reranker: Reranker, pairs: Any) -> None:
    with pytest.raises(InputError):
        reranker.score(pairs)
    assert len(reranker.score([("a", "b")])) == 1


@pytest.mark.parametrize("query, passages", [(None, ["a"]), ("q", "text"), ("q", None), ("q", [None]), ("q", ["a", 3])])
async def test_bad_texts(reranker: Reranker, query: Any, passages: Any) -> None:
    with pytest.raises(InputError):
        reranker.rank(query, passages)
    with pytest.raises(InputError):
        await reranker.arank(query, passages)


@pytest.mark.parametrize("cut", [{"top_n": -1}, {"top_n": 1.5}, {"top_n": True}, {"top_n": "3"},
                                 {"score_threshold": "high"}, {"score_threshold": math.nan}], ids=repr)  # fmt: skip
def test_bad_cuts(reranker: Reranker, cut: Any) -> None:
    with pytest.raises(ConfigError):
        reranker.rank(QUERY, PASSAGES, **cut)


STRANGE = ["", " ", "\x00", "a\x00b", "a\ud800b", "\U0001f43c" * 50, "é" * 40, "\n\t", "</s>[SEP]<pad>", "x" * 20_000]


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "gemma"])
def test_strange_texts_are_scored(tiny: Any, name: str) -> None:
    with Reranker(tiny(name), device="cpu") as fresh:
        together = fresh.score([(text, text) for text in STRANGE])
        assert together == pytest.approx([fresh.score([(text, text)])[0] for text in STRANGE], abs=3e-6)


def test_ten_megabytes_are_cut_and_counted(tiny: Any) -> None:
    with Reranker(tiny("xlm-roberta"), device="cpu") as fresh:
        (ranked,) = fresh.rank("panda", ["giant panda bear " * 600_000])
        assert ranked.truncated_tokens > 1_000_000
        assert fresh.stats().truncated_pairs == 1


def test_normalize_is_the_sigmoid_in_double_precision(tiny: Any) -> None:
    pairs = [(QUERY, passage) for passage in PASSAGES]
    with Reranker(tiny("bert"), device="cpu") as raw, Reranker(tiny("bert"), device="cpu", normalize=True) as unit:
        expected = [1 / (1 + math.exp(-logit)) for logit in raw.score(pairs)]
        assert unit.score(pairs) == pytest.approx(expected, abs=1e-15)
        assert [p.index for p in raw.rank(QUERY, PASSAGES)] == [p.index for p in unit.rank(QUERY, PASSAGES)]


def test_truncation_is_told_once_a_call(tiny: Any, caplog: pytest.LogCaptureFixture) -> None:
    with Reranker(tiny("bert"), device="cpu", max_length=32) as fresh, caplog.at_level(logging.WARNING):
        ranking = fresh.rank("panda", ["bear " * 100, "bear", "bear " * 90])
        warnings = [r for r in caplog.records if "not read" in r.message]
    by_index = {p.index: p.truncated_tokens for p in ranking}
    assert by_index[0] > by_index[2] > 0
    assert by_index[1] == 0
    assert len(warnings) == 1
    assert "2 of 3" in warnings[0].message


def test_long_passages_can_be_refused(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu", max_length=32, long_passages="error") as strict:
        with pytest.raises(InputError, match="longer than fits"):
            strict.rank("panda", ["bear " * 100, "bear"])
        assert len(strict.rank("panda", ["bear"])) == 1


def test_empty_passages_are_told(reranker: Reranker, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(reranker.rank(QUERY, ["", PASSAGES[0], "  "])) == 3
    assert "2 of 3 passages are empty" in caplog.text


def test_a_model_that_gives_nan_is_an_error(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu") as fresh:
        model = fresh._executor._scorer._family.model  # type: ignore[union-attr]
        bias = float(model.classifier.bias)
        model.classifier.bias.fill_(math.nan)
        with pytest.raises(WorkerError, match="not a number"):
            fresh.rank(QUERY, PASSAGES)
        model.classifier.bias.fill_(bias)
        assert len(fresh.rank(QUERY, PASSAGES)) == 4


def test_copies_carry_the_options_only(reranker: Reranker) -> None:
    expected = reranker.score([(QUERY, PASSAGES[0])])
    for twin in (copy.deepcopy(reranker), copy.copy(reranker), pickle.loads(pickle.dumps(reranker))):
        assert twin.config == reranker.config
        assert "not loaded" in repr(twin)
        assert twin.stats() == RerankStats()
        assert twin.score([(QUERY, PASSAGES[0])]) == expected
        twin.close()
    assert len(pickle.dumps(reranker)) < 2_000


def test_from_config_loads_now_or_at_first_use(tiny: Any) -> None:
    config = RerankConfig(tiny("bert"), device="cpu")
    with Reranker.from_config(config, start=False) as lazy:
        assert "loaded" in repr(lazy)
    lazy = Reranker.from_config(config, start=False)
    assert lazy.stats().forward_passes == 0
    assert len(lazy.score([("a", "b")])) == 1
    lazy.close()


def test_from_config_reads_what_a_config_is_written_as(tiny: Any, tmp_path: Path) -> None:
    config = RerankConfig(tiny("bert"), device="cpu", max_length=64)
    file = tmp_path / "config.json"
    file.write_text(config.to_json(), encoding="utf-8-sig")
    for source in (config.to_dict(), config.to_json(), "\n" + config.to_json(), file, str(file)):
        assert Reranker.from_config(source, start=False).config == config


@pytest.mark.parametrize(
    "source, told",
    [
        ({"modle": "x"}, "Unknown option 'modle'"),
        ({"max_length": 3}, "max_length must be"),
        ('{"model": ', "not valid JSON"),
        ("no/such/config.json", "'no/such/config.json' cannot be read: No such file"),
        ("a\0b", "cannot be read"),
        (None, "from_config needs a RerankConfig, a dict of its options, JSON text or the path of a JSON file"),
        (["model", "x"], "not list"),
        (b"{}", "not bytes"),
    ],
)
def test_from_config_says_what_it_cannot_read(source: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Reranker.from_config(source, start=False)


def test_a_config_file_with_a_mistake_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"dtype": "int3"}')
    with pytest.raises(ConfigError, match=r"config\.json: dtype must be one of"):
        Reranker.from_config(file)
    file.write_bytes(b"\xff{}")
    with pytest.raises(ConfigError, match="cannot be read"):
        Reranker.from_config(file)


def test_close_twice_and_use_after_close(tiny: Any) -> None:
    fresh = Reranker(tiny("bert"), device="cpu")
    fresh.close()
    fresh.close()
    assert "closed" in repr(fresh)
    for call in (lambda: fresh.score([("a", "b")]), fresh.start, lambda: asyncio.run(fresh.ascore([("a", "b")]))):
        with pytest.raises(WorkerError, match="closed"):
            call()


async def test_async_context_manager(tiny: Any) -> None:
    async with Reranker.from_config(RerankConfig(tiny("bert"), device="cpu"), start=False) as fresh:
        assert len(await fresh.arank(QUERY, PASSAGES)) == 4
    with pytest.raises(WorkerError):
        await fresh.arank(QUERY, PASSAGES)


def test_a_failed_start_can_be_closed_and_leaves_no_thread(tiny: Any) -> None:
    lazy = Reranker.from_config(RerankConfig("/no/such/model", device="cpu"), start=False)
    for _ in range(2):
        with pytest.raises(RerankError):
            lazy.start()
    lazy.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("flag-rerank") and not t.is_alive()]


def test_a_forgotten_reranker_ends_its_thread(tiny: Any) -> None:
    forgotten = Reranker(tiny("bert"), device="cpu")
    worker = forgotten._executor._worker  # type: ignore[union-attr]
    assert worker.is_alive()
    del forgotten
    gc.collect()
    worker.join(10)
    assert not worker.is_alive()


def test_timeout_is_an_error_and_the_next_call_works(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu", timeout=0.01, max_batch_tokens=64) as fresh:
        slow = [(f"query {i}", "passage " * 40) for i in range(400)]
        with pytest.raises(WorkerTimeout, match="400 pairs"):
            fresh.score(slow)
        with pytest.raises(TimeoutError):
            asyncio.run(fresh.ascore(slow))
        object.__setattr__(fresh.config, "timeout", 60)
        assert len(fresh.score([("a", "b")])) == 1
        assert fresh.stats().scored_pairs < 400, "what timed out is dropped"


def test_load_seconds_explain_the_start(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu") as fresh:
        assert {"imports and files", "tokenizer", "weights", "self-check"} <= set(fresh.stats().load_seconds)


def test_stats_add_up(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu") as fresh:
        fresh.rank(QUERY, PASSAGES)
        fresh.rank(QUERY, [*PASSAGES, PASSAGES[0]])
        stats = fresh.stats()
    assert (stats.pairs, stats.scored_pairs) == (9, 8)
    assert stats.tokens == stats.computed_tokens > 0
    assert stats.seconds > 0
    assert stats.tokens_per_second == pytest.approx(stats.tokens / stats.seconds)
    assert (stats.family, stats.layout, stats.max_batch_tokens) == ("encoder", "packed", 8192)


def test_progress_shows_a_bar_on_standard_error(tiny: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with Reranker(tiny("bert"), device="cpu", progress=True) as fresh:
        capfd.readouterr()  # what building the model printed
        fresh.rank(QUERY, PASSAGES)
        captured = capfd.readouterr()
    assert "4/4" in captured.err
    assert captured.err.endswith("\n")  # it is over before the caller prints anything
    assert captured.out == ""
