"""`flag-rerank eval` in real processes: what it prints and writes, and its mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ir_measures
import pytest
from cli_tools import flag_rerank, on_terminal
from judged_data import write_folder
from rerank_server import Serve

MODEL = ("--model", "quickstart", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "small")


def test_json_and_files(folder: Path, tmp_path: Path) -> None:
    run, table = tmp_path / "out.trec", tmp_path / "queries.csv"
    outcome = flag_rerank(
        *("eval", str(folder), "--run", str(folder / "run.trec.gz"), "--top-k", "3", "--max-length", "64"),
        *("--measures", "nDCG@10, MRR@10,nDCG@10", "--out-run", str(run), "--per-query", str(table), "--json", *MODEL),
    )
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    assert (found["name"], found["queries"], found["pairs"], found["first_stage"]) == ("small", 3, 6, "run.trec.gz")
    assert (found["config"]["model"], found["config"]["max_length"]) == ("quickstart", 64)
    ndcg, mrr = found["measures"]
    assert (ndcg["measure"], mrr["measure"]) == ("nDCG@10", "MRR@10")
    assert ndcg["after"] > ndcg["before"]

    written = list(ir_measures.read_trec_run(str(run)))
    qrels = [
        ir_measures.Qrel(query, passage, int(grade))
        for query, passage, grade in map(str.split, (folder / "qrels" / "test.tsv").read_text().splitlines()[1:])
        if query != "no-text"
    ]
    measures = [ir_measures.nDCG @ 10, ir_measures.RR @ 10]
    assert ir_measures.calc_aggregate(measures, qrels, written) == {
        measures[0]: pytest.approx(ndcg["after"]),
        measures[1]: pytest.approx(mrr["after"]),
    }
    assert [line.split(",")[0] for line in table.read_text().splitlines()] == [
        "query_id",
        "berlin",
        "panda",
        "not-found",
    ]


def test_a_report_on_a_terminal_with_bm25_first(folder: Path) -> None:
    outcome = on_terminal("eval", str(folder), "--limit-queries", "2", "--top-k", "2", *MODEL, columns=100)
    assert outcome.code == 0
    assert "small: 2 queries, the first 2 passages of each re-ranked" in outcome.out
    assert "\n  By nDCG@10, " in outcome.out
    assert "evaluating small: 100%" in outcome.out
    assert "pair/s" in outcome.out
    assert "reranking" not in outcome.out  # one bar is enough


def test_a_server_may_do_the_work(folder: Path, serve: Serve) -> None:
    run = ("--run", str(folder / "run.trec.gz"))
    outcome = flag_rerank("eval", str(folder), *run, "--url", serve("tei").url, "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert (found["queries"], found["truncated_pairs"]) == (3, None)


def test_help_fits_a_page() -> None:
    outcome = flag_rerank("eval", "--help", COLUMNS="120")
    assert outcome.code == 0
    assert max(map(len, outcome.out.splitlines())) <= 120


@pytest.mark.parametrize(
    "arguments, told",
    [
        ([], "missing: --corpus, --queries, --qrels"),
        (["nowhere"], "nowhere has no qrels/test.tsv nor qrels.tsv"),
        (["FOLDER", "--split", "dev"], "has no qrels/dev.tsv"),
        (["FOLDER", "--run", "nowhere"], "cannot read nowhere"),
        (["FOLDER", "--top-k", "0"], "--top-k must be at least 1"),
        (["FOLDER", "--limit-queries", "0"], "--limit-queries must be at least 1"),
        (["FOLDER", "--seed", "-1"], "--seed must be at least 0"),
        (["FOLDER", "--measures", "Quality@3"], "'Quality@3' is no measure"),
        (["FOLDER", "--measures", ","], "measures must be a list of at least one name"),
        (["FOLDER", "--per-query", "table.xlsx"], "ends in .csv or .json"),
        (["FOLDER", "--out-run", "/nowhere/run.trec"], "there is no folder /nowhere"),
        (["FOLDER", "--out-run", "."], "it is a folder"),
        (["FOLDER", "--dtype", "int3"], "dtype"),
        (["FOLDER", "--model", "/nowhere"], "/nowhere"),
    ],
)
def test_mistakes_are_one_line(folder: Path, arguments: list[str], told: str) -> None:
    outcome = flag_rerank("eval", *(str(folder) if argument == "FOLDER" else argument for argument in arguments))
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("flag-rerank: ")
    assert outcome.err.count("\n") == 1
    assert told in outcome.err


@pytest.mark.parametrize(
    "module, told",
    [("bm25s", "give a TREC run with --run"), ("ir_measures", "pip install 'flag-rerank-integrations[eval]'")],
)
def test_what_is_not_installed_is_told(folder: Path, module: str, told: str) -> None:
    hidden = f"import sys; sys.modules[{module!r}] = None\nfrom flag_rerank_integrations.cli import main\n"
    statements = f"{hidden}sys.exit(main(['eval', {str(folder)!r}, '--model', 'quickstart']))"
    finished = subprocess.run([sys.executable, "-c", statements], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert told in finished.stderr
    assert finished.stderr.count("\n") == 1
