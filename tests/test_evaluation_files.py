"""The files of judged data: BEIR's, TREC's, and what is wrong with them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from judged_data import CORPUS, QRELS, QUERIES, RUN, write_folder

from flag_rerank_integrations.errors import ConfigError, InputError
from flag_rerank_integrations.evaluation import (
    Comparison,
    Evaluation,
    JudgedSet,
    QueryValues,
    ScoredPassage,
    read_qrels,
    read_run,
    read_texts,
    write_run,
)
from flag_rerank_integrations.evaluation.report import as_text, write_per_query


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


class TestFolder:
    def test_it_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "small")
        assert JudgedSet.from_folder(folder) == JudgedSet(QUERIES, CORPUS, QRELS, "small")
        assert JudgedSet.from_folder(folder, only={"panda"}).corpus == {"panda": CORPUS["panda"]}

    def test_gzipped_and_flat(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "small")
        (folder / "qrels" / "test.tsv").rename(folder / "qrels.tsv")
        for name in ("corpus.jsonl", "qrels.tsv"):
            written(folder / f"{name}.gz", gzip.compress((folder / name).read_bytes()))
            (folder / name).unlink()
        assert JudgedSet.from_folder(folder) == JudgedSet(QUERIES, CORPUS, QRELS, "small")

    def test_a_split_is_never_replaced_by_another(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "small")
        written(folder / "qrels" / "dev.tsv", "panda\tpanda\t1\n")
        assert JudgedSet.from_folder(folder, split="dev").qrels == {"panda": {"panda": 1}}
        with pytest.raises(InputError, match=r"small has no qrels/train\.tsv"):
            JudgedSet.from_folder(folder, split="train")

    def test_files_named_by_themselves(self, tmp_path: Path) -> None:
        corpus = written(tmp_path / "collection.tsv", "7\tA panda\teats.\n8\t\n")
        queries = written(tmp_path / "topics.tsv.gz", gzip.compress("\ufeff1\twhat is a panda?\r\n".encode()))
        qrels = written(tmp_path / "judged.txt", "1 0 7 3\n1 0 8 0\n")
        judged = JudgedSet.from_folder(corpus=corpus, queries=queries, qrels=qrels)
        assert judged == JudgedSet(
            {"1": "what is a panda?"}, {"7": "A panda\teats.", "8": ""}, {"1": {"7": 3, "8": 0}}, "judged"
        )

    def test_a_missing_folder_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"nowhere has no qrels/test\.tsv nor qrels\.tsv; BEIR's layout is"):
            JudgedSet.from_folder(tmp_path / "nowhere")


class TestTexts:
    def test_titles_come_first_and_numbers_are_ids(self, tmp_path: Path) -> None:
        lines = [
            {"_id": 7, "title": "Panda", "text": "A bear."},
            {"id": "八", "title": None, "text": " ", "metadata": {}},
        ]
        path = written(tmp_path / "corpus.jsonl", "\n\n".join(json.dumps(line) for line in lines))
        assert read_texts(path) == {"7": "Panda A bear.", "八": ""}

    @pytest.mark.parametrize(
        "text, told",
        [
            ('{"_id": "a", "text": "x"}\n{"_id": "b"', r"line 2: not JSON \("),
            ('["a"]', "line 1: an entry is a JSON object"),
            ('{"text": "x"}', "line 1: '_id' must be a string, not null"),
            ('{"_id": true, "text": "x"}', "line 1: '_id' must be a string, not true"),
            ('{"_id": "", "text": "x"}', "line 1: '_id' must be a string"),
            ('{"_id": "a"}', "line 1: 'text' must be a string, not null"),
            ('\n{"_id": "a", "text": ["x"]}', "line 2: 'text' must be a string, not \\["),
            ('{"_id": "a", "title": 3, "text": "x"}', "line 1: 'title' must be a string, not 3"),
            ('{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}', "line 2: 'a' has another text further up"),
            (b'{"_id": "a", "text": "x"}\n\xff', "line 2: not UTF-8"),
            (b"\x1f\x8b\x08\x00broken", "cannot read"),
        ],
    )
    def test_a_wrong_line_is_named(self, tmp_path: Path, text: str | bytes, told: str) -> None:
        path = written(tmp_path / "corpus.jsonl", text)
        with pytest.raises(InputError, match=told) as caught:
            read_texts(path)
        assert str(path) in str(caught.value)

    def test_a_line_without_a_tab_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="line 2: a line is an id, a tab and a text"):
            read_texts(written(tmp_path / "queries.tsv", "1\tx\n2 y\n"))


class TestQrels:
    @pytest.mark.parametrize(
        "text",
        [
            "query-id\tcorpus-id\tscore\nq 1\td1\t2\nq 1\td2\t-1\n",
            "q\u00a01 0 d1 2\nq\u00a01 Q0 d2 -1\n".replace("\u00a0", "_"),
            "q_1\t0\td1\t2.0\n\nq_1\t0\td2\t-1\nq_1 0 d1 2\n",
        ],
    )
    def test_both_forms(self, tmp_path: Path, text: str) -> None:
        (grades,) = read_qrels(written(tmp_path / "qrels", text)).values()
        assert grades == {"d1": 2, "d2": -1}

    def test_blanks_of_other_scripts_belong_to_an_id(self, tmp_path: Path) -> None:
        assert read_qrels(written(tmp_path / "qrels", "查\u3000询 0 文\u00a0档 1\n")) == {
            "查\u3000询": {"文\u00a0档": 1}
        }

    @pytest.mark.parametrize(
        "text, told",
        [
            ("q d\n", "line 1: judgements have three columns .* not 2"),
            ("q 0 d 1 x\n", "not 5"),
            ("q\t\t1\n", "line 1: judgements have three columns"),
            ("query\tcorpus\tscore\nq\td\tgood\n", "line 2: a grade is a whole number, not 'good'"),
            ("q d 0.5\n", "line 1: a grade is a whole number, not '0.5'"),
            ("q d nan\n", "a grade is a whole number"),
            ("q d inf\n", "a grade is a whole number"),
            ("q d 1\nq d 2\n", "line 2: passage 'd' of query 'q' has grade 2 here and 1 further up"),
            ("query\tcorpus\tscore\n", "holds no judgements"),
            ("", "holds no judgements"),
        ],
    )
    def test_a_wrong_line_is_named(self, tmp_path: Path, text: str, told: str) -> None:
        with pytest.raises(InputError, match=told):
            read_qrels(written(tmp_path / "qrels", text))


class TestRuns:
    def test_scores_order_it_and_ranks_do_not(self, tmp_path: Path) -> None:
        text = "q Q0 a 1 1.5 tag\nq Q0 b 2 2e1 tag\n大\tQ0\tc\t1\t-3\ttwo words\nq Q0 c 3 1.5\n"
        for path in (written(tmp_path / "run", text), written(tmp_path / "run.gz", gzip.compress(text.encode()))):
            assert read_run(path) == {"q": [("b", 20.0), ("a", 1.5), ("c", 1.5)], "大": [("c", -3.0)]}

    def test_it_comes_back_as_it_was_written(self, tmp_path: Path) -> None:
        write_run(tmp_path / "run", RUN, "my run")
        back = read_run(tmp_path / "run")
        assert {query: [hit.passage_id for hit in hits] for query, hits in back.items()} == {
            query: [hit.passage_id for hit in hits] for query, hits in RUN.items()
        }
        assert (tmp_path / "run").read_text().splitlines()[0] == "berlin Q0 new-york 1 3.5 my-run"

    @pytest.mark.parametrize(
        "text, told",
        [
            ("q Q0 a 1 2 t\nq\ta\t1\n", "line 2: a line of a TREC run has six columns .* not 3"),
            ("q Q0 a 1 best t\n", "line 1: a score is a finite number, not 'best'"),
            ("q Q0 a 1 nan t\n", "line 1: a score is a finite number"),
            ("\n", "holds no run"),
        ],
    )
    def test_a_wrong_line_is_named(self, tmp_path: Path, text: str, told: str) -> None:
        with pytest.raises(InputError, match=told):
            read_run(written(tmp_path / "run", text))

    def test_what_cannot_be_read_or_written_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"cannot read .*nowhere"):
            read_run(tmp_path / "nowhere")
        with pytest.raises(InputError, match="cannot write"):
            write_run(tmp_path, RUN, "run")
        with pytest.raises(InputError, match="cannot hold the id 'a b'"):
            write_run(tmp_path / "run", {"q": [ScoredPassage("a b", 1.0)]}, "run")
        assert not (tmp_path / "run").exists()

    def test_a_file_that_ends_too_soon_is_told(self, tmp_path: Path) -> None:
        packed = gzip.compress(b"q Q0 a 1 2 t\n" * 10_000)
        with pytest.raises(InputError, match="cannot read"):
            read_run(written(tmp_path / "run.gz", packed[:-20]))


class TestReport:
    RESULT = Evaluation(
        name="small",
        top_k=5,
        comparisons=(Comparison("nDCG@10", 0.5, 0.75, 0.1, 0.4, 0.0001), Comparison("R@5", 1.0, 0.5, -0.6, -0.4, 0.01)),
        per_query=(QueryValues("1", '什么, "是"', {"nDCG@10": 0.5, "R@5": 1.0}, {"nDCG@10": 0.75, "R@5": 0.5}),),
        first_stage={},
        reranked={},
        pairs=10,
        truncated_pairs=5,
        seconds=2.0,
        notes=("something is odd",),
    )

    def test_people_read_it(self) -> None:
        assert as_text(self.RESULT).splitlines() == [
            "small: 1 query, the first 5 passages of each re-ranked (10 pairs)",
            "  measure  first stage  re-ranked  difference  95% interval             p",
            "  nDCG@10        0.500      0.750      +0.250  +0.100 to +0.400    <0.001",
            "  R@5            1.000      0.500      -0.500  -0.600 to -0.400     0.010",
            "  By nDCG@10, re-ranking is better than the first stage alone on these queries.",
            "  Scoring took 2.0 s: 5.0 pairs/s",
            "  50.0% of the passages were too long to be read to the end",
            "  Note: something is odd",
        ]

    def test_single_queries_as_a_table(self, tmp_path: Path) -> None:
        write_per_query(tmp_path / "queries.csv", self.RESULT)
        assert (tmp_path / "queries.csv").read_bytes().decode().split("\r\n") == [
            "query_id,query,nDCG@10 first stage,nDCG@10 re-ranked,R@5 first stage,R@5 re-ranked",
            '1,"什么, ""是""",0.5,0.75,1.0,0.5',
            "",
        ]
        write_per_query(tmp_path / "queries.json", self.RESULT)
        (row,) = json.loads((tmp_path / "queries.json").read_text(encoding="utf-8"))
        assert row["after"] == {"nDCG@10": 0.75, "R@5": 0.5}
        with pytest.raises(ConfigError, match=r"ends in \.csv or \.json"):
            write_per_query(tmp_path / "queries.xlsx", self.RESULT)
