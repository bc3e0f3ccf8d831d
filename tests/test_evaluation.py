"""Evaluation: what is measured, against whom, and what chance could make of it."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, R, nDCG
from judged_data import CORPUS, JUDGED, QRELS, QUERIES, RUN, Scores

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import ConfigError, InputError
from flag_rerank_integrations.evaluation import (
    Evaluation,
    JudgedSet,
    ScoredPassage,
    bm25_run,
    default_measures,
    evaluate,
    paired_difference,
    values_by_query,
    write_run,
)
from flag_rerank_integrations.evaluation.first_stage import Bm25

GOOD = {"population": 3.0, "museums": 2.0, "panda": 3.0, "bamboo": 2.0}


@pytest.fixture(scope="module")
def quickstart() -> Evaluation:
    with Reranker("quickstart", device="cpu") as reranker:
        return evaluate(JUDGED, reranker, RUN, top_k=3)


def ids(evaluation: Evaluation, query: str) -> list[str]:
    return [hit.passage_id for hit in evaluation.reranked[query]]


class TestRealModel:
    def test_it_ranks_answers_first(self, quickstart: Evaluation) -> None:
        assert ids(quickstart, "berlin") == ["population", "museums", "new-york"]
        assert ids(quickstart, "panda")[0] == "panda"
        scores = [hit.score for hit in quickstart.reranked["berlin"]]
        assert scores == sorted(scores, reverse=True)
        assert quickstart.comparison("nDCG@10").difference > 0.2

    def test_ndcg_is_that_of_the_textbook(self, quickstart: Evaluation) -> None:
        berlin = quickstart.per_query[0]
        assert (berlin.query_id, berlin.query) == ("berlin", QUERIES["berlin"])
        ideal = 2 / math.log2(2) + 1 / math.log2(3)
        assert berlin.before["nDCG@10"] == pytest.approx((1 / math.log2(3) + 2 / math.log2(4)) / ideal)
        assert berlin.after["nDCG@10"] == pytest.approx(1)
        assert (berlin.before["RR@10"], berlin.after["RR@10"]) == (0.5, 1.0)

    def test_the_written_run_measures_the_same(self, quickstart: Evaluation, tmp_path: Path) -> None:
        write_run(tmp_path / "run.trec", quickstart.reranked, "a tag")
        run = list(ir_measures.read_trec_run(str(tmp_path / "run.trec")))
        qrels = {query: QRELS[query] for query in ("berlin", "panda", "not-found")}
        expected = ir_measures.calc_aggregate([nDCG @ 10, RR @ 10, R @ 10, R @ 3], qrels, run)
        assert len(run) == 6
        assert {str(measure): pytest.approx(value) for measure, value in expected.items()} == {
            comparison.measure: comparison.after for comparison in quickstart.comparisons
        }

    def test_it_says_what_it_left_out(self, quickstart: Evaluation) -> None:
        assert quickstart.queries == 3
        assert (quickstart.pairs, quickstart.truncated_pairs) == (6, 0)
        assert quickstart.notes == (
            "queries without a judgement, left out: 1",
            "judged queries without a text, left out: 1",
            "queries that the first stage found nothing for, counted as 0: 1",
        )
        assert quickstart.per_query[2].after == {"nDCG@10": 0, "RR@10": 0, "R@10": 0, "R@3": 0}

    def test_it_is_json(self, quickstart: Evaluation) -> None:
        found = json.loads(json.dumps(quickstart.to_dict(), allow_nan=False))
        assert [line["measure"] for line in found["measures"]] == ["nDCG@10", "RR@10", "R@10", "R@3"]
        assert found["measures"][0]["difference"] == quickstart.comparison("nDCG@10").difference
        with pytest.raises(KeyError, match="not among nDCG@10"):
            quickstart.comparison("AP")


class TestRankings:
    def test_equal_scores_keep_the_first_stages_order(self, tmp_path: Path) -> None:
        result = evaluate(JUDGED, Scores({}), RUN, top_k=3)
        assert {query: ids(result, query) for query in RUN if query != "unjudged"} == {
            query: [hit.passage_id for hit in hits] for query, hits in RUN.items() if query != "unjudged"
        }
        assert all((line.difference, line.low, line.high, line.p_value) == (0, 0, 0, 1) for line in result.comparisons)
        # Other tools order equal scores in other ways, and must not find any.
        write_run(tmp_path / "run.trec", result.reranked, "ties")
        for before, after in zip(result.comparisons, default_measures(3), strict=True):
            measure = ir_measures.parse_measure(after)
            written = list(ir_measures.read_trec_run(str(tmp_path / "run.trec")))
            qrels = {query: QRELS[query] for query in ("berlin", "panda", "not-found")}
            assert ir_measures.calc_aggregate([measure], qrels, written)[measure] == pytest.approx(before.after)

    def test_scores_that_single_precision_cannot_tell_apart_are_written_apart(self, tmp_path: Path) -> None:
        close = [ScoredPassage("a", 1.0), ScoredPassage("b", 1.0 - 1e-12), ScoredPassage("c", 0.5)]
        write_run(tmp_path / "run.trec", {"q": close}, "run")
        lines = (tmp_path / "run.trec").read_text().splitlines()
        scores = [np.float32(line.split()[4]) for line in lines]
        assert scores[0] > scores[1] > scores[2] == np.float32(0.5)

    def test_what_lies_beyond_top_k_stays_behind(self) -> None:
        reranker = Scores(GOOD)
        result = evaluate(JUDGED, reranker, RUN, top_k=2)
        assert ids(result, "berlin") == ["museums", "new-york", "population"]
        assert all(len(texts) == 2 for _, texts in reranker.asked)
        assert [query for query, _ in reranker.asked] == [QUERIES["berlin"], QUERIES["panda"]]
        recall = evaluate(JUDGED, reranker, RUN, top_k=2, measures=["R@3"]).comparisons[0]
        assert recall.before == recall.after > 0

    def test_a_passage_found_twice_counts_once(self) -> None:
        twice = [ScoredPassage("museums", 1.0), ScoredPassage("population", 0.5), ScoredPassage("museums", 0.2)]
        result = evaluate(JUDGED, Scores(GOOD), {"berlin": twice, "panda": RUN["panda"]})
        assert ids(result, "berlin") == ["population", "museums"]
        assert "passages found twice for a query, of which the better place counts: 1" in result.notes

    def test_empty_passages_are_told(self) -> None:
        judged = replace(JUDGED, corpus={**CORPUS, "museums": " "})
        notes = evaluate(judged, Scores(GOOD), RUN).notes
        assert "empty passages to re-rank, whose scores mean nothing: 1" in notes

    def test_a_run_over_another_corpus_is_refused(self) -> None:
        with pytest.raises(InputError, match="'nowhere' for query 'berlin', and small has no passage of that id"):
            evaluate(JUDGED, Scores({}), {"berlin": [ScoredPassage("nowhere", 1.0)]})

    def test_ids_that_do_not_match_are_refused(self) -> None:
        with pytest.raises(InputError, match="do the ids in queries and qrels match"):
            evaluate(replace(JUDGED, qrels={"1": {"panda": 1}}), Scores({}), RUN)

    def test_queries_without_a_relevant_passage_are_told(self) -> None:
        result = evaluate(replace(JUDGED, qrels={**QRELS, "panda": {"new-york": 0}}), Scores(GOOD), RUN)
        assert "queries without a relevant passage, counted as 0: 1" in result.notes
        assert result.per_query[1].after["nDCG@10"] == 0

    @pytest.mark.parametrize(
        "wrong", [{"top_k": 0}, {"top_k": True}, {"limit_queries": 0}, {"limit_queries": 1.5}, {"seed": -1}]
    )
    def test_counts_are_checked(self, wrong: dict[str, int]) -> None:
        with pytest.raises(ConfigError, match=r"at least [01]"):
            evaluate(JUDGED, Scores({}), RUN, **wrong)  # type: ignore[arg-type]

    def test_fewer_queries_are_spread_over_all(self) -> None:
        many = JudgedSet({str(i): "x" for i in range(10)}, CORPUS, {str(i): {"panda": 1} for i in range(10)})
        assert many.limited(4).asked() == ["0", "2", "5", "7"]
        assert many.limited(99).asked() == many.asked() == many.limited(None).asked()
        result = evaluate(JUDGED, Scores(GOOD), RUN, limit_queries=1)
        assert [values.query_id for values in result.per_query] == ["berlin"]


class TestProgress:
    def test_it_is_one_bar_over_all_pairs(self, quickstart: Evaluation, capfd: pytest.CaptureFixture[str]) -> None:
        with Reranker("quickstart", device="cpu", progress=True) as reranker:
            result = evaluate(JUDGED, reranker, RUN, top_k=3, progress=True)
            shown = capfd.readouterr()
            assert "evaluating small: 100%" in shown.err
            assert f"{result.pairs}/{result.pairs}" in shown.err
            assert "reranking" not in shown.err
            assert shown.out == ""
            reranker.score([("what is a panda?", "a bear")])
            assert "reranking: 100%" in capfd.readouterr().err  # its own bar is back
        assert result.comparisons == quickstart.comparisons

    def test_a_stranger_that_tells_nothing_fills_it_in_the_end(self, capfd: pytest.CaptureFixture[str]) -> None:
        evaluate(JUDGED, Scores(GOOD), RUN, progress=True)
        assert "6/6" in capfd.readouterr().err

    def test_there_is_none_unless_asked_for(self, capfd: pytest.CaptureFixture[str]) -> None:
        evaluate(JUDGED, Scores(GOOD), top_k=2)
        assert capfd.readouterr().err == ""


class TestFirstStage:
    def test_without_a_run_it_is_bm25(self) -> None:
        result = evaluate(JUDGED, Scores(GOOD), top_k=2)
        assert result.first_stage["panda"][0].passage_id == "panda"
        assert {len(hits) for hits in result.first_stage.values()} <= {0, 1, 2}
        assert "queries that the first stage found nothing for, counted as 0: 1" in result.notes

    def test_scripts_without_blanks_are_searched_by_character(self) -> None:
        index = Bm25(["大熊猫是中国特有的熊科动物。", "柏林有多少人口", "a panda"])
        assert [[place for place, _ in hits] for hits in index.search(["熊猫在哪里", "panda", "???"], 3)] == [
            [0],
            [2],
            [],
        ]
        assert index.search([], 3) == []

    def test_a_corpus_without_words_is_refused(self) -> None:
        with pytest.raises(InputError, match="no passage with a word in it"):
            bm25_run(JudgedSet(QUERIES, {"a": "", "b": "?!"}, QRELS), 10)


class TestMeasures:
    def test_names_are_what_people_write(self) -> None:
        names = ["nDCG@10", "ndcg@10", "MRR", "RR@2", "recall@2", "R@2", "P@1", "map", "AP(rel=2)"]
        found = values_by_query(names, {"q": {"a": 1, "b": 2}}, {"q": ["x", "b", "a"]})
        values = {name: by_query["q"] for name, by_query in found.items()}
        assert values["nDCG@10"] == values["ndcg@10"]
        assert (values["MRR"], values["RR@2"], values["P@1"], values["AP(rel=2)"]) == (0.5, 0.5, 0, 0.5)
        assert values["recall@2"] == values["R@2"] == 0.5
        assert values["map"] == pytest.approx((1 / 2 + 2 / 3) / 2)

    @pytest.mark.parametrize(
        "names", [[], "nDCG@10", ["Quality"], ["nDCG@"], ["nDCG@0.5.1"], ["nDCG(x=1)@3"], ["R@0"], [" "]]
    )
    def test_unknown_measures_are_refused(self, names: list[str]) -> None:
        with pytest.raises(ConfigError, match="measure"):
            evaluate(JUDGED, Scores({}), RUN, measures=names)

    def test_a_measure_that_fails_does_so_before_anything_is_ranked(self) -> None:
        reranker = Scores({})
        # Computed, where it can be at all, by a program that takes no query ids but numbers.
        with pytest.raises(ConfigError, match="nDCG"):
            evaluate(JUDGED, reranker, RUN, measures=["nDCG(dcg='exp-log2')@10"])
        assert reranker.asked == []

    def test_grades_below_zero_are_not_relevant(self) -> None:
        qrels = {"q": {"a": -2, "b": 1}}
        found = values_by_query(["nDCG@10", "AP"], qrels, {"q": ["a", "b"], "other": ["a"]})
        assert found == {"nDCG@10": {"q": pytest.approx(1 / math.log2(3))}, "AP": {"q": 0.5}}


class TestBootstrap:
    def test_equal_rankings_differ_by_nothing(self) -> None:
        same = paired_difference([0.1, 0.5, 1.0], [0.1, 0.5, 1.0])
        assert (same.mean, same.low, same.high, same.p_value) == (0, 0, 0, 1)

    def test_it_is_close_to_all_draws_there_are(self) -> None:
        differences = np.asarray([0.3, -0.1, 0.2, 0.4, 0.05])
        draws = np.asarray(list(itertools.product(differences, repeat=5))).mean(axis=1)
        mean = differences.mean()
        found = paired_difference([0.0] * 5, differences.tolist())
        assert found.mean == pytest.approx(mean)
        assert (found.low, found.high) == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.011)
        assert found.p_value == pytest.approx(np.mean(np.abs(draws - mean) >= mean), abs=0.01)

    def test_a_sure_gain_and_chance(self) -> None:
        gain = paired_difference([0.0] * 30, [0.4, 0.6] * 15)
        chance = paired_difference([0.0, 1.0] * 15, [1.0, 0.0] * 15)
        assert 0.4 < gain.low < 0.5 < gain.high < 0.6
        assert gain.p_value == 1 / 10_001  # never 0
        assert chance.low < 0 < chance.high
        assert chance.p_value > 0.5

    def test_a_seed_makes_it_repeatable(self) -> None:
        values = np.random.default_rng(1).normal(0.1, 1, 300).tolist()
        one, other = (paired_difference([0.0] * 300, values, seed=seed) for seed in (1, 2))
        assert one == paired_difference([0.0] * 300, values, seed=1)
        assert one.low != other.low
        assert one.low == pytest.approx(other.low, abs=0.01)

    def test_no_queries_are_refused(self) -> None:
        with pytest.raises(ValueError, match="no queries"):
            paired_difference([], [])
