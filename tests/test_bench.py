"""Measuring this machine: what is tried, in which turn, what becomes of failures, and what is recommended."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from light_model import write

from flag_rerank_integrations import RerankConfig, Reranker
from flag_rerank_integrations.bench import (
    BenchResult,
    Grid,
    Judging,
    Limits,
    Round,
    Row,
    Rule,
    Setting,
    Workload,
    _measuring,
    as_dict,
    as_text,
    paired,
    plot,
    run,
)
from flag_rerank_integrations.bench import visit as visit_module
from flag_rerank_integrations.bench import write as write_files
from flag_rerank_integrations.bench._measuring import timed_runs
from flag_rerank_integrations.bench.measurement import quantile
from flag_rerank_integrations.bench.memory import host_peak
from flag_rerank_integrations.bench.quality import Change, Quality
from flag_rerank_integrations.bench.recommendation import chosen_options, recommend
from flag_rerank_integrations.bench.visit import visit
from flag_rerank_integrations.errors import ConfigError, DeviceError, InputError, RerankError, WorkerDied
from flag_rerank_integrations.evaluation import JudgedSet, evaluate
from flag_rerank_integrations.results import DeviceStats

MEBIBYTE = 1 << 20
CONFIG = RerankConfig("some/model", device="cpu")
REQUESTS = [(f"query {number}", [f"panda {number} {place}" for place in range(5)]) for number in range(4)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose process starts fast; it reads at most 64 tokens."""
    return write(tmp_path_factory.mktemp("light") / "model", widths=(32, 32), positions=64)


def a_round(pairs_per_second: float, **more: Any) -> Round:
    known = {"tokens": 1000, "latencies": (10 / pairs_per_second,), "host_memory": 100 * MEBIBYTE}
    return Round(**{"pairs": 100, "passes": (100 / pairs_per_second,), **known, **more})


def a_row(length: int, *speeds: float, cut: int = 0, device: str = "cpu", **more: Any) -> Row:
    rounds = [a_round(speed, truncated_pairs=cut, **more) for speed in speeds]
    return Row(Setting(length, device=device), rounds)


def recommended(*rows: Row, rule: Rule | None = None, qualities: tuple[Quality, ...] = ()) -> tuple[Setting, str]:
    found = recommend(rows, CONFIG, rule or Rule(), qualities)
    assert found is not None
    return found.setting, found.reason


class TestGrid:
    def test_it_is_every_combination_with_lengths_changing_fastest(self) -> None:
        grid = Grid(max_lengths=(128, 64), token_budgets=("auto", 512), dtypes=("fp32",), devices=("cpu", "cpu:2"))
        assert grid.settings(CONFIG) == tuple(
            Setting(length, budget, "float32", device)
            for device in ("cpu", "cpu:2")
            for budget in ("auto", 512)
            for length in (128, 64)
        )

    def test_what_is_named_twice_is_measured_once(self) -> None:
        grid = Grid(max_lengths=(64, 64), dtypes=("float16", "fp16"), devices=("cpu",))
        assert grid.settings(CONFIG) == (Setting(64, "auto", "float16", "cpu"),)

    def test_devices_of_one_setting_stay_together(self) -> None:
        (setting,) = Grid(max_lengths=(64,), devices=(("cuda:0", "cuda:1"),)).settings(CONFIG)
        assert setting.applied(CONFIG).device == ("cuda:0", "cuda:1")
        assert str(setting) == "max_length 64, budget auto, dtype auto, cuda:0+cuda:1"

    @pytest.mark.parametrize(
        "values, told",
        [
            ({"max_lengths": ()}, "max_lengths is empty"),
            ({"max_lengths": (3,)}, "max_length must be a whole number of at least 8"),
            ({"dtypes": ("int3",)}, "dtype must be one of"),
            ({"token_budgets": (0,)}, "max_batch_tokens must be"),
        ],
    )
    def test_what_can_never_be_right_is_refused(self, values: dict[str, Any], told: str) -> None:
        with pytest.raises(ConfigError, match=told):
            Grid(**values).settings(CONFIG)


class TestWorkload:
    def test_it_is_the_same_draw_every_time(self) -> None:
        requests = [(f"q{number}", ["a", "b"]) for number in range(50)]
        drawn = Workload.sample(requests, pairs=10)
        assert drawn == Workload.sample(requests, pairs=10)
        assert (drawn.pairs, len(drawn.requests), drawn.passages) == (10, 5, 2)
        assert drawn.requests != tuple((query, tuple(texts)) for query, texts in requests[:5])

    def test_a_long_list_becomes_several_requests_of_one_size(self) -> None:
        texts = [f"text {number}" for number in range(11)]
        drawn = Workload.sample([("q", ["", "  ", texts[0], *texts])], passages=4)
        assert {query for query, _ in drawn.requests} == {"q"}
        assert sorted(text for _, part in drawn.requests for text in part) == sorted(texts[:8])
        assert Workload.sample([("q", texts[:3])], passages=4).requests == (("q", tuple(texts[:3])),)

    def test_queries_and_passages_apart(self) -> None:
        found = list(paired(["a", "b"], [str(number) for number in range(7)], 3))
        assert [query for query, _ in found] == ["a", "b"]
        assert [len(texts) for _, texts in found] == [3, 3]
        assert len({text for _, texts in found for text in texts}) == 6
        assert [query for query, _ in paired(["a", "b", "c"], ["x"], 3)] == ["a", "b", "c"]

    def test_nothing_to_score_is_an_error(self) -> None:
        with pytest.raises(InputError, match="no passages"):
            Workload.sample([("q", [" "])])
        with pytest.raises(InputError, match="no queries"):
            list(paired([], ["a"]))
        with pytest.raises(ConfigError, match="pairs must be a whole number"):
            Workload.sample(REQUESTS, pairs=0)


class TestFigures:
    def test_speeds_are_medians_and_latencies_are_of_all_rounds(self) -> None:
        rounds = [
            Round(10, 600, passes=(1.0, 3.0, 2.0), latencies=(0.1, 0.2), truncated_pairs=1, host_memory=5),
            Round(10, 600, passes=(1.0,), latencies=(0.4,), truncated_pairs=1, host_memory=7),
            Round(10, 600, passes=(4.0,), latencies=(0.3,), truncated_pairs=1, host_memory=6),
        ]
        row = Row(Setting(64), rounds)
        assert (row.slowest, row.pairs_per_second, row.fastest) == (2.5, 5.0, 10.0)
        assert row.tokens_per_second == 300.0
        assert row.latency == pytest.approx(0.25)
        assert row.latency_p95 == 0.4
        assert (row.truncated_share, row.host_memory, row.device_memory) == (0.1, 7, None)

    def test_nothing_measured_is_no_number(self) -> None:
        row = Row(Setting(64))
        assert all(map(math.isnan, (row.pairs_per_second, row.slowest, row.latency, row.latency_p95)))
        assert (row.measured, row.host_memory) == (False, None)

    @pytest.mark.parametrize("share, expected", [(0.0, 1), (0.5, 10), (0.95, 19), (1.0, 20)])
    def test_quantiles_are_by_nearest_rank(self, share: float, expected: int) -> None:
        assert quantile(list(range(20, 0, -1)), share) == expected

    @pytest.mark.parametrize("seconds, runs", [(0.5, 1), (1.0, 1), (5.5, 5)])
    def test_runs_fill_the_time_and_one_is_always_made(
        self, seconds: float, runs: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ticks = SimpleNamespace(perf_counter=itertools.count().__next__)  # every run takes a second
        monkeypatch.setattr(_measuring, "time", ticks)
        calls: list[None] = []
        assert timed_runs(lambda: calls.append(None), seconds) == [1] * runs
        assert len(calls) == runs

    def test_memory_of_workers_out_of_sight_is_unknown(self) -> None:
        two = [DeviceStats("cpu", peak_memory=10), DeviceStats("cpu", peak_memory=20)]
        own = host_peak(two[:1], ray=False)
        assert own is not None
        assert host_peak(two, ray=True) == pytest.approx(own + 30, abs=64 * MEBIBYTE)
        assert host_peak([DeviceStats("cpu"), *two], ray=False) is None
        assert host_peak([DeviceStats("cuda:0", peak_memory=10)], ray=True) is None


class Recorder:
    """Takes a measuring process's place: notes who was asked, and gives what it is told to."""

    def __init__(self, failures: dict[int, tuple[int, BaseException]] | None = None) -> None:
        self.asked: list[int] = []
        self.seconds: list[float] = []
        self._failures = failures or {}

    def __call__(self, config: RerankConfig, _workload: Workload, seconds: float) -> Round:
        self.asked.append(config.max_length)
        self.seconds.append(seconds)
        after, error = self._failures.get(config.max_length, (sys.maxsize, RerankError()))
        if self.asked.count(config.max_length) > after:
            raise error
        assert (config.score_cache, config.progress) == (0, False)
        return a_round(100.0)


def run_with(measure: Recorder, **more: Any) -> BenchResult:
    grid = Grid(max_lengths=(64, 128, 256), devices=("cpu",))
    limits = Limits(repeats=3, seconds_per_point=6)
    config = CONFIG.replace(score_cache=100)
    return run(config, grid, Workload.sample(REQUESTS), limits=limits, measure=measure, **more)


class TestRounds:
    def test_settings_take_turns(self) -> None:
        measure = Recorder()
        result = run_with(measure)
        assert measure.asked == [64, 128, 256, 128, 256, 64, 256, 64, 128]
        assert set(measure.seconds) == {2.0}
        assert (result.rounds, result.planned, result.interrupted) == (9, 9, False)
        assert result.recommendation is not None
        assert result.recommendation.options["score_cache"] == 100

    def test_a_failure_is_a_row_with_its_reason_and_no_end(self) -> None:
        measure = Recorder({128: (0, DeviceError("cpu is out of memory.")), 64: (1, WorkerDied("gone"))})
        result = run_with(measure)
        assert measure.asked == [64, 128, 256, 256, 64, 256]
        assert [row.failure for row in result.rows] == [
            "WorkerDied: gone",
            "DeviceError: cpu is out of memory.",
            None,
        ]
        text = as_text(result)
        assert "FAILED   max_length 128, budget auto, dtype auto, cpu: DeviceError: cpu is out of memory." in text
        assert "Recommended: max_length 256" in text
        assert [row["failure"] is None for row in as_dict(result)["settings"]] == [False, False, True]

    def test_what_is_no_error_of_ours_is_not_hidden(self) -> None:
        with pytest.raises(ZeroDivisionError):
            run_with(Recorder({128: (0, ZeroDivisionError())}))

    def test_an_interrupt_keeps_what_is_finished(self) -> None:
        measure = Recorder({128: (1, KeyboardInterrupt())})
        result = run_with(measure)
        assert measure.asked == [64, 128, 256, 128]
        assert result.interrupted
        assert [len(row.rounds) for row in result.rows] == [1, 1, 1]
        assert "Interrupted: 3 of 9 measurements were finished and are kept." in as_text(result)

    def test_when_all_fail_nothing_is_recommended(self, tmp_path: Path) -> None:
        errors = {length: (0, DeviceError("no memory")) for length in (64, 128, 256)}
        result = run_with(Recorder(errors))
        assert result.recommendation is None
        assert "nothing is recommended" in as_text(result)
        (tmp_path / "recommended.json").write_text("of an earlier run")
        assert write_files(result, tmp_path) == [tmp_path / "results.json"]
        assert not (tmp_path / "recommended.json").exists()
        with pytest.raises(InputError, match="nothing to draw"):
            plot.draw(result, tmp_path / "bench.png")

    def test_lengths_are_judged_after_the_speeds_the_longest_first(self) -> None:
        def judge(config: RerankConfig) -> Quality:
            if config.max_length == 128:
                msg = "too much"
                raise DeviceError(msg)
            return Quality(0, ndcg=config.max_length / 1000, first_stage=0.1, queries=7)

        result = run_with(Recorder({64: (0, DeviceError("x"))}), judge=judge)
        assert [(each.max_length, each.ndcg) for each in result.qualities] == [(256, 0.256), (128, None)]
        text = as_text(result)
        assert "max_length 256: nDCG@10 0.256, first stage 0.100" in text
        assert "max_length 128: no nDCG@10, DeviceError: too much" in text

    @pytest.mark.parametrize("values", [{"repeats": 0}, {"repeats": 2.0}, {"seconds_per_point": 0.0}])
    def test_limits_are_checked(self, values: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=f"{next(iter(values))} must be"):
            Limits(**values)


class TestRecommendation:
    def test_the_fastest_that_reads_enough(self) -> None:
        rows = [a_row(64, 400, cut=30), a_row(128, 200, cut=5), a_row(256, 100)]
        setting, reason = recommended(*rows)
        assert setting.max_length == 128
        assert reason == (
            "max_length 128, 256 cut at most 5.0% of the passages. "
            "Of these 2 settings it is the fastest, with 200 pairs/s."
        )
        assert recommended(*rows, rule=Rule(max_truncated=0.3))[0].max_length == 64
        assert recommended(*rows, rule=Rule(max_truncated=0))[0].max_length == 256

    def test_where_all_cut_too_much_the_longest_stays(self) -> None:
        setting, reason = recommended(a_row(64, 400, cut=60), a_row(128, 200, cut=40))
        assert setting.max_length == 128
        assert "No length cuts at most 5.0% of the passages; max_length 128 cuts the fewest, 40.0%." in reason

    def test_within_the_noise_the_longest_then_the_fewest_workers_then_the_first(self) -> None:
        noisy = (100, 120, 140)
        rows = [
            a_row(128, *noisy),
            a_row(256, 90, 95, 101, device="cpu:2", workers=2),
            a_row(256, 90, 95, 101, device="cuda:0"),
            a_row(256, 90, 95, 101, device="cuda:1"),
            a_row(512, 90, 95, 99),
        ]
        setting, reason = recommended(*rows)
        assert (setting.max_length, setting.device) == (256, "cuda:0")
        assert "4 are as fast as the fastest within the noise" in reason

    def test_three_per_cent_are_noise_however_steady_the_rounds(self) -> None:
        assert recommended(a_row(128, 100.0), a_row(256, 97.5))[0].max_length == 256
        assert recommended(a_row(128, 100.0), a_row(256, 96.5))[0].max_length == 128

    def test_judged_queries_decide_instead_of_what_is_cut(self) -> None:
        rows = [a_row(64, 400, cut=90), a_row(128, 200, cut=50), a_row(256, 100, cut=10)]
        qualities = (Quality(256, ndcg=0.8), Quality(128, ndcg=0.795), Quality(64, ndcg=0.70))
        setting, reason = recommended(*rows, qualities=qualities)
        assert setting.max_length == 128
        assert reason.startswith("max_length 128, 256 keep at least 99.0% of the best nDCG@10 (0.800).")
        assert recommended(*rows, rule=Rule(min_ndcg_ratio=0.8), qualities=qualities)[0].max_length == 64

    def test_the_goal_can_be_one_request(self) -> None:
        rows = [a_row(64, 100, latencies=(0.5, 0.5)), a_row(64, 50, latencies=(0.1, 0.1), device="cpu:2")]
        assert recommended(*rows)[0].device == "cpu"
        setting, reason = recommended(*rows, rule=Rule(goal="latency"))
        assert setting.device == "cpu:2"
        assert "100 ms a request" in reason

    def test_one_that_ran_out_of_memory_is_taken_only_where_there_is_no_other(self) -> None:
        unsteady = a_row(128, 500, oom_backoffs=2)
        setting, reason = recommended(unsteady, a_row(64, 100))
        assert setting.max_length == 64
        assert "Left out: 1 setting that ran out of memory" in reason
        assert recommended(unsteady)[0].max_length == 128

    def test_failed_ones_are_out(self) -> None:
        failed = Row(Setting(512), [a_round(900)], failure="DeviceError: x")
        assert recommended(failed, a_row(64, 100))[0].max_length == 64
        assert recommend([failed], CONFIG, Rule()) is None

    @pytest.mark.parametrize("values", [{"goal": "beauty"}, {"max_truncated": 1.5}, {"min_ndcg_ratio": -1}])
    def test_rules_are_checked(self, values: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=f"{next(iter(values))} must be"):
            Rule(**values)

    def test_options_are_those_measured_and_those_that_differ(self) -> None:
        config = RerankConfig("m", device="cpu", max_length=1024, normalize=True)
        options = chosen_options(config)
        assert list(options) == ["model", "device", "dtype", "max_length", "max_batch_tokens", "normalize"]
        assert RerankConfig.from_dict(json.loads(json.dumps(options))) == config


class TestMeasuring:
    def test_one_round_of_a_real_model(self, model: str) -> None:
        requests = Workload.sample([*REQUESTS, ("q", ["giant panda bear " * 40])])
        measured = visit(RerankConfig(model, device="cpu", max_length=48), requests, 0.2)
        assert (measured.pairs, measured.truncated_pairs) == (21, 1)
        with Reranker(model, device="cpu", max_length=48) as reranker:
            reranker.rank_many(requests.requests)
            stats = reranker.stats()
        assert (measured.tokens, measured.layout, measured.max_batch_tokens) == (
            stats.tokens,
            stats.layout,
            stats.max_batch_tokens,
        )
        assert min(*measured.passes, *measured.latencies, measured.load_seconds) > 0
        # A process of its own: this one holds torch and more.
        assert 10 * MEBIBYTE < (measured.host_memory or 0) < 400 * MEBIBYTE
        assert (measured.device_memory, measured.workers) == (None, 1)

    def test_workers_count_in_the_memory(self, model: str) -> None:
        workload = Workload.sample(REQUESTS)
        config = RerankConfig(model, device="cpu", max_length=48)
        one, two = (visit(config.replace(device=device), workload, 0.1) for device in ("cpu", "cpu:2"))
        assert two.workers == 2
        assert (two.host_memory or 0) > 1.5 * (one.host_memory or 0)

    def test_errors_come_back_as_themselves(self, model: str) -> None:
        workload = Workload.sample(REQUESTS)
        with pytest.raises(ConfigError, match="64"):
            visit(RerankConfig(model, device="cpu", max_length=128), workload, 0.1)
        with pytest.raises(ConfigError, match="data types"):
            visit(RerankConfig(model, device="cpu", max_length=48, dtype="bfloat16"), workload, 0.1)

    @pytest.mark.parametrize(
        "code, told",
        [
            ("import os; os.kill(os.getpid(), 9)", r"-9 \(SIGKILL: .*when memory runs out\)"),
            ("import sys; sys.exit('it broke')", "exit code 1. Its last words: it broke"),
            ("print('no frame')", "exit code 0"),
        ],
    )
    def test_a_process_that_ends_says_how(self, code: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(visit_module, "module_command", lambda _: [sys.executable, "-c", code])
        with pytest.raises(WorkerDied, match=told):
            visit(CONFIG, Workload.sample(REQUESTS), 0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("judged")
    words = ["giant panda bear", "people in Berlin", "museum of art", "bagels in the city"]
    corpus = [{"_id": f"p{i}", "text": f"{words[i % 4]} {i} {'and so on ' * (5 * i)}"} for i in range(12)]
    queries = [{"_id": f"q{i}", "text": word} for i, word in enumerate(words)]
    for name, entries in (("corpus", corpus), ("queries", queries)):
        (home / f"{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    grades = "".join(f"q{i % 4}\tp{i}\t{1 + i % 2}\n" for i in range(8))
    (home / "qrels").mkdir()
    (home / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + grades)
    return home


class TestJudging:
    def test_each_length_against_the_first_stage_and_the_longest(self, folder: Path, model: str) -> None:
        judging = Judging.from_files(folder, top_k=6)
        config = RerankConfig(model, device="cpu", max_length=64)
        longest, shorter = judging(config), judging(config.replace(max_length=12))
        with Reranker.from_config(config) as reranker:
            judged = JudgedSet.from_folder(folder)
            (expected,) = evaluate(judged, reranker, top_k=6, measures=["nDCG@10"]).comparisons
        assert (longest.ndcg, longest.first_stage) == (expected.after, expected.before)
        assert longest.gain == Change(expected.difference, expected.low, expected.high)
        assert (longest.cost, longest.queries, shorter.max_length) == (None, 4, 12)
        assert shorter.first_stage == longest.first_stage
        assert shorter.cost is not None
        assert shorter.cost.mean == pytest.approx((shorter.ndcg or 0) - (longest.ndcg or 0))

    def test_its_texts_are_those_to_measure_with(self, folder: Path) -> None:
        requests = Judging.from_files(folder / "qrels" / "test.tsv", top_k=3, limit=2).requests()
        assert [query for query, _ in requests] == ["giant panda bear", "museum of art"]
        assert all(len(texts) == 3 and all(query in text for text in texts) for query, texts in requests)

    def test_a_run_takes_the_place_of_bm25(self, folder: Path, tmp_path: Path) -> None:
        run_file = tmp_path / "run.trec"
        run_file.write_text("q1 Q0 p9 1 2.0 x\nq1 Q0 p0 2 1.0 x\n")
        requests = Judging.from_files(folder, run=str(run_file)).requests()
        assert [(query, [text.split()[0] for text in texts]) for query, texts in requests if texts] == [
            ("people in Berlin", ["people", "giant"])
        ]


def two_by_three(**more: Any) -> BenchResult:
    rows = [
        a_row(length, *(speed / length for speed in speeds), device=device, cut=12800 // length, **more)
        for device, speeds in (("cpu", (9e3, 1e4, 1.1e4)), ("cpu:2", (1.4e4, 1.5e4, 1.6e4)))
        for length in (128, 256, 512)
    ]
    return BenchResult(CONFIG, Workload.sample(REQUESTS), Limits(), Rule(max_truncated=0.5), rows)


class TestFiles:
    def test_the_recommendation_loads_and_ranks(self, model: str, tmp_path: Path) -> None:
        config = RerankConfig(model, device="cpu", normalize=True)
        grid = Grid(max_lengths=(32, 48), devices=("cpu",))
        result = run(config, grid, Workload.sample(REQUESTS), limits=Limits(1, 0.1))
        written = write_files(result, tmp_path / "new" / "folder")
        assert [path.name for path in written] == ["results.json", "recommended.json"]
        with Reranker.from_config(written[1]) as reranker:
            assert reranker.config.max_length in (32, 48)
            assert reranker.config == config.replace(max_length=reranker.config.max_length)
            assert sorted(ranked.index for ranked in reranker.rank("panda", ["a bear", "a city"])) == [0, 1]
        figures = json.loads(written[0].read_text(encoding="utf-8"))
        assert figures["recommended"]["options"] == json.loads(written[1].read_text(encoding="utf-8"))
        assert [row["max_length"] for row in figures["settings"]] == [32, 48]

    @pytest.mark.parametrize("more", [{}, {"device_memory": 3 << 30, "host_memory": None}], ids=["cpu", "gpu"])
    def test_the_picture_is_a_png_with_something_in_it(self, more: dict[str, Any], tmp_path: Path) -> None:
        from matplotlib.image import imread

        result = two_by_three(**more)
        result.qualities = [Quality(512, 0.8, 0.6), Quality(256, 0.79, 0.6), Quality(128, failure="x")]
        plot.draw(result, tmp_path / "bench.png")
        assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        pixels = imread(tmp_path / "bench.png")
        assert pixels.shape[0] > 800
        assert pixels.shape[1] > 1200
        assert 0.01 < (pixels[..., :3].min(axis=2) < 0.8).mean() < 0.5

    def test_one_setting_makes_a_picture_too(self, tmp_path: Path) -> None:
        result = BenchResult(CONFIG, Workload.sample(REQUESTS), Limits(), Rule(), [a_row(128, 100)])
        plot.draw(result, tmp_path / "bench.png")
        assert (tmp_path / "bench.png").stat().st_size > 10_000

    def test_a_missing_extra_is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(plot.importlib.util, "find_spec", lambda _: None)
        with pytest.raises(ConfigError, match=r"flag-rerank-integrations\[bench\].*--no-plot"):
            plot.draw(two_by_three(), tmp_path / "bench.png")

    def test_a_directory_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="cannot write to"):
            write_files(two_by_three(), tmp_path / "file")

    def test_the_table_marks_what_is_recommended(self) -> None:
        text = as_text(two_by_three())
        (marked,) = [line for line in text.splitlines() if line.startswith("* ")]
        assert marked.split()[:7] == ["*", "256", "auto", "auto", "cpu:2", "58.6", "54.7-62.5"]
        assert "GPU MiB" not in text
        assert "GPU MiB" in as_text(two_by_three(device_memory=1 << 30))
