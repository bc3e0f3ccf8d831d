"""The demo: its corpus, its judged questions, its measures, and the whole job on the real quickstart model."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from cli_tools import flag_rerank

from flag_rerank_integrations import RerankConfig
from flag_rerank_integrations.demo import DemoResult, as_dict, as_text, missing_distributions, run
from flag_rerank_integrations.demo.corpus import MAX_CHARACTERS, Entry, harvest
from flag_rerank_integrations.demo.first_stage import FirstStage
from flag_rerank_integrations.demo.judgements import ANSWERS, JudgedQuery, known, load
from flag_rerank_integrations.demo.quality import compare
from flag_rerank_integrations.errors import ConfigError

# Judged names that some supported versions of Python lack, or do not document in their source.
NOT_EVERYWHERE = {
    "asyncio.taskgroups.TaskGroup",
    "asyncio.timeouts.Timeout",
    "asyncio.timeouts.timeout",
    "asyncio.timeouts.timeout_at",
    "cgi.parse",
    "enum.EnumCheck",
    "mimetypes.MimeTypes.guess_file_type",
    "mimetypes.guess_file_type",
    "pathlib.Path.home",
    "pathlib.Path.walk",
    "pathlib.PurePath.match",
}
CONFIG = RerankConfig(model="quickstart", device="cpu")


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    return harvest()


@pytest.fixture(scope="module")
def result() -> DemoResult:
    return run(CONFIG, top_k=6, limit=5)


class TestCorpus:
    def test_it_is_the_same_every_time(self, entries: list[Entry]) -> None:
        names = [entry.name for entry in entries]
        assert harvest() == entries
        assert names == sorted(set(names))
        assert len(names) > 4000

    def test_passages_are_short_and_named(self, entries: list[Entry]) -> None:
        assert all(entry.text.startswith(f"{entry.name}: ") for entry in entries)
        assert all(len(entry.text) <= len(entry.name) + MAX_CHARACTERS + len(":  ...") for entry in entries)
        assert not [entry for entry in entries if any(part.startswith("_") for part in entry.name.split("."))]

    def test_nothing_is_imported(self) -> None:
        """Some modules of the library print, or open a browser, when they are imported."""
        statements = (
            "import sys; from flag_rerank_integrations.demo.corpus import harvest; harvest()\n"
            "print({'antigravity', 'this', 'tkinter', 'turtle'} & set(sys.modules))"
        )
        finished = subprocess.run([sys.executable, "-c", statements], capture_output=True, text=True, check=True)
        assert finished.stdout == "set()\n"

    def test_what_counts_as_documented(self, tmp_path: Path) -> None:
        (tmp_path / "box").mkdir()
        (tmp_path / "box" / "__init__.py").write_text('"""A package."""\n')
        (tmp_path / "box" / "tools.py").write_text(
            "class Tool:\n"
            '    """A tool.\n\n    It is   useful.\n    """\n'
            '    def use(self):\n        """Use it."""\n        def inner():\n            """Hidden."""\n'
            '    def _use(self):\n        """Private."""\n'
            "if True:\n"
            '    def make():\n        """First."""\n'
            "else:\n"
            '    def make():\n        """Second."""\n'
            "try:\n    import nothing\nexcept ImportError:\n"
            '    def spare():\n        """Spare."""\n'
            "def silent(): pass\n"
            'def blank():\n    """  """\n'
        )
        (tmp_path / "_pyio.py").write_text('def open():\n    """Open a file."""\n')
        (tmp_path / "_secret.py").write_text('"""Private."""\n')
        (tmp_path / "broken.py").write_text("def (:\n")
        (tmp_path / "test").mkdir()
        (tmp_path / "test" / "test_box.py").write_text('"""Tests."""\n')
        assert [entry.text for entry in harvest(tmp_path)] == [
            "box: A package.",
            "box.tools.Tool: A tool.\nIt is useful.",
            "box.tools.Tool.use: Use it.",
            "box.tools.make: First.",
            "box.tools.spare: Spare.",
            "io.open: Open a file.",
        ]

    def test_long_docstrings_end_at_a_paragraph_or_a_word(self, tmp_path: Path) -> None:
        words = " ".join(["word"] * 60)
        (tmp_path / "one.py").write_text(f'"""{words}\n\n{words}"""\n')
        (tmp_path / "two.py").write_text(f'"""{words} {words}"""\n')
        one, two = harvest(tmp_path)
        assert one.text == f"one: {words}"
        assert two.text.endswith("word word ...")
        assert len(two.text) <= MAX_CHARACTERS + len("two:  ...")

    def test_an_installation_without_source_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="No Python source"):
            harvest(tmp_path)


class TestJudgements:
    def test_every_question_has_an_answer(self) -> None:
        queries = load()
        assert len(queries) >= 40
        assert len({query.text for query in queries}) == len(queries)
        assert all(ANSWERS in query.grades.values() for query in queries)
        assert {grade for query in queries for grade in query.grades.values()} == {1, ANSWERS}

    def test_judged_names_exist_in_this_python(self, entries: list[Entry]) -> None:
        queries, names = load(), {entry.name for entry in entries}
        missing = {name for query in queries for name in query.grades} - names
        kept, dropped = known(queries, names)
        assert missing <= NOT_EVERYWHERE
        assert (len(kept), dropped) == (len(queries), 0)
        assert all(query.grades.keys() <= names for query in kept)

    def test_a_question_without_an_answer_is_dropped_and_counted(self) -> None:
        queries = [JudgedQuery("a", {"x": 2, "y": 1}), JudgedQuery("b", {"y": 1, "z": 2})]
        assert known(queries, {"x", "y"}) == ([queries[0]], 1)


class TestFirstStage:
    def test_names_are_searched_by_their_words(self) -> None:
        first_stage = FirstStage(
            [
                Entry("difflib.get_close_matches", "difflib.get_close_matches: Similar words."),
                Entry("shutil.rmtree", "shutil.rmtree: Delete a tree."),
                Entry("os.remove", "os.remove: Delete a file, not a directory tree."),
            ]
        )
        assert [hit.entry.name for hit in first_stage.search("close the door", 3)] == ["difflib.get_close_matches"]
        hits = first_stage.search("delete a tree", 3)
        assert [hit.entry.name for hit in hits] == ["shutil.rmtree", "os.remove"]
        assert hits[0].score > hits[1].score > 0
        assert first_stage.search("delete a tree", 1) == hits[:1]
        assert first_stage.search("panda", 3) == []
        assert first_stage.search("大熊猫?", 3) == []


class TestQuality:
    def test_measures_are_those_of_the_textbook(self) -> None:
        queries = [JudgedQuery("a", {"x": 2, "y": 1, "far": 1})]
        by_measure = {line.measure: line for line in compare(queries, [["z", "y", "x"]], [["x", "y", "z"]], 3)}
        ideal = 2 + 1 / math.log2(3) + 1 / math.log2(4)
        ndcg = by_measure["nDCG@10"]
        assert ndcg.before == pytest.approx((1 / math.log2(3) + 2 / math.log2(4)) / ideal)
        assert ndcg.after == pytest.approx((2 + 1 / math.log2(3)) / ideal)
        assert (by_measure["MRR"].before, by_measure["MRR"].after) == (0.5, 1.0)
        assert by_measure["recall@3"].before == by_measure["recall@3"].after == pytest.approx(2 / 3)

    def test_a_question_without_candidates_counts_as_zero(self) -> None:
        queries = [JudgedQuery("a", {"x": 2}), JudgedQuery("b", {"x": 2})]
        (ndcg, mrr, recall) = compare(queries, [["x"], []], [["x"], []], 5)
        assert ndcg.before == mrr.before == recall.before == 0.5

    def test_the_interval_tells_a_sure_gain_from_chance(self) -> None:
        queries = [JudgedQuery(str(i), {"x": 2}) for i in range(30)]
        good, bad = [["x", "y"]] * 30, [["y", "x"]] * 30
        mixed = [["x", "y"], ["y", "x"]] * 15
        gain = compare(queries, bad, mixed, 2)[0]
        assert 0 < gain.low < gain.after - gain.before < gain.high
        same_gain = compare(queries, bad, good, 2)[0]
        assert same_gain.low == pytest.approx(same_gain.high)
        chance = compare(queries, mixed, mixed[::-1], 2)[0]
        assert chance.low < 0 < chance.high
        assert compare(queries, bad, mixed, 2) == compare(queries, bad, mixed, 2)


class TestWholeJob:
    def test_both_frameworks_agree_on_one_model(self, result: DemoResult) -> None:
        assert (result.questions, result.agreement.questions, result.agreement.same_order) == (5, 5, 5)
        assert result.agreement.largest_difference == 0
        # One Reranker saw every pair twice, once from each framework.
        assert result.stats.pairs == 2 * 5 * 6
        assert result.stats.family == "onnx"

    def test_the_sample_is_the_same_candidates_in_a_new_order(self, result: DemoResult) -> None:
        before = [hit.entry.name for hit in result.sample.before]
        after = [ranked.name for ranked in result.sample.after]
        scores = [ranked.score for ranked in result.sample.after]
        assert sorted(before) == sorted(after)
        assert scores == sorted(scores, reverse=True)
        assert ANSWERS in [result.sample.query.grades.get(name) for name in before]

    def test_the_report_says_everything(self, result: DemoResult) -> None:
        text = as_text(result)
        for section in ("Corpus", "Questions", "Model", "Sample question", "Quality", "Frameworks", "Speed"):
            assert f"\n{section}" in f"\n{text}"
        for said in ("nDCG@10", "MRR", "recall@6", "LangChain", "LlamaIndex", "pairs/s", "tokens/s", "padding"):
            assert said in text
        assert "the same order for 5 of 5 questions" in text
        assert max(map(len, text.splitlines())) <= 120

    def test_the_report_is_json_as_well(self, result: DemoResult) -> None:
        found = json.loads(json.dumps(as_dict(result), allow_nan=False))
        assert found["quality"][0]["measure"] == "nDCG@10"
        assert found["agreement"]["same_order"] == 5
        assert found["sample"]["after"][0].keys() == {"name", "score"}
        assert found["stats"]["load_seconds"].keys() == result.stats.load_seconds.keys()

    @pytest.mark.parametrize("wrong", [{"top_k": 0}, {"limit": 0}, {"limit": True}])
    def test_counts_are_checked_first(self, wrong: dict[str, int]) -> None:
        with pytest.raises(ConfigError, match="at least 1"):
            run(CONFIG, **wrong)  # type: ignore[arg-type]


class TestCommand:
    def test_it_prints_the_report_and_shows_any_question(self) -> None:
        outcome = flag_rerank("demo", "--queries", "2", "--top-k", "4", "--device", "cpu", "-q", "大熊猫 qwertz")
        assert (outcome.code, outcome.err) == (0, "")
        assert "No passage shares a word" in outcome.out
        assert "Both agree: the same order for 2 of 2 questions" in outcome.out

    def test_it_prints_json(self) -> None:
        outcome = flag_rerank(
            "demo", "--queries", "1", "--top-k", "3", "--device", "cpu", "--json", "-q", "sort a list"
        )
        found = json.loads(outcome.out)
        assert (outcome.code, outcome.err) == (0, "")
        assert found["sample"]["question"] == "sort a list"
        assert len(found["sample"]["before"]) == 3

    @pytest.mark.parametrize("arguments", [["--top-k", "0"], ["--queries", "-1"], ["--dtype", "int3"]])
    def test_mistakes_are_one_line(self, arguments: list[str]) -> None:
        outcome = flag_rerank("demo", *arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.startswith("flag-rerank: ")
        assert outcome.err.count("\n") == 1

    def test_a_missing_extra_is_named(self) -> None:
        hidden = "import sys; sys.modules['bm25s'] = None\n"
        statements = f"{hidden}from flag_rerank_integrations.cli import main\nsys.exit(main(['demo']))"
        finished = subprocess.run([sys.executable, "-c", statements], capture_output=True, text=True, check=False)
        assert missing_distributions() == []
        assert (finished.returncode, finished.stdout) == (2, "")
        assert finished.stderr == ("flag-rerank: the demo needs bm25s: pip install 'flag-rerank-integrations[demo]'\n")
