"""`flag-rerank bench` in real processes: its table, its files, its exit codes, mistakes and Ctrl-C included."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from cli_tools import COMMAND, flag_rerank, open_terminal, read_terminal
from light_model import write

from flag_rerank_integrations import RerankConfig, Reranker
from flag_rerank_integrations.cli.texts import read_requests
from flag_rerank_integrations.errors import InputError

REQUESTS = [
    {"query": f"what is panda {number}?", "passages": [f"panda {number} {place}" for place in range(6)]}
    for number in range(4)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose process starts fast; it reads at most 64 tokens."""
    return write(tmp_path_factory.mktemp("light") / "model", widths=(32, 32), positions=64)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("texts") / "requests.jsonl"
    file.write_text("".join(json.dumps(request) + "\n" for request in REQUESTS), encoding="utf-8")
    return str(file)


def lines_of(path: Path, *lines: str) -> str:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def test_it_measures_writes_and_recommends(model: str, texts: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = flag_rerank(
        *("bench", "--model", model, "--device", "cpu", "--texts", texts, "--out", str(out), "--normalize"),
        *("--max-lengths", "32,48,128", "--token-budgets", "auto,64"),
        *("--repeats", "2", "--seconds-per-point", "0.1", "--pairs", "12"),
    )
    assert outcome.code == 0
    assert f"Texts    {texts}: 12 pairs, in 2 requests of 6 passages" in outcome.out
    assert outcome.out.count("\nFAILED   max_length 128, budget ") == 2
    assert "ConfigError: " in outcome.out
    assert "Recommended: max_length " in outcome.out
    written = [out / name for name in ("results.json", "recommended.json", "bench.png")]
    assert outcome.err.splitlines() == [f"flag-rerank: wrote {path}" for path in written]
    figures = json.loads(written[0].read_text(encoding="utf-8"))
    assert [len(row["rounds"]) for row in figures["settings"]] == [2, 2, 0, 2, 2, 0]
    assert (figures["measured"], figures["planned"], figures["interrupted"]) == (8, 12, False)
    assert written[2].read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    with Reranker.from_config(written[1]) as reranker:
        best = reranker.rank("panda", ["a bear", "a city"])[0]
        assert reranker.config.replace(max_length=48, max_batch_tokens=64) == RerankConfig(
            model, device="cpu", normalize=True, max_length=48, max_batch_tokens=64
        )
    assert 0 < best.score < 1


def test_the_demos_texts_and_json(model: str) -> None:
    outcome = flag_rerank(
        *("bench", "--model", model, "--max-lengths", "64", "--devices", "cpu,cpu:2", "--json"),
        *("--repeats", "1", "--seconds-per-point", "0.1", "--pairs", "10", "--passages", "5", "--goal", "latency"),
    )
    figures: dict[str, Any] = json.loads(outcome.out)
    assert (outcome.code, outcome.err) == (0, "")
    assert figures["texts"] == {"source": "the demo's", "pairs": 10, "requests": 2, "passages": 5}
    assert [(row["device"], row["rounds"][0]["workers"]) for row in figures["settings"]] == [("cpu", 1), ("cpu:2", 2)]
    assert figures["rule"]["goal"] == "latency"
    assert figures["recommended"]["options"]["device"] in ("cpu", "cpu:2")


def test_judged_queries_show_what_a_length_costs(model: str, tmp_path: Path) -> None:
    passages = [{"_id": f"p{i}", "text": f"panda {i} {'bear ' * i}"} for i in range(8)]
    lines_of(tmp_path / "corpus.jsonl", *map(json.dumps, passages))
    lines_of(tmp_path / "queries.jsonl", '{"_id": "q", "text": "panda bear"}')
    lines_of(tmp_path / "qrels.tsv", "query-id\tcorpus-id\tscore", "q\tp3\t1")
    outcome = flag_rerank(
        *("bench", "--model", model, "--device", "cpu", "--qrels", str(tmp_path), "--max-lengths", "8,64"),
        *("--repeats", "1", "--seconds-per-point", "0.1"),
    )
    assert outcome.code == 0
    assert f"Texts    {tmp_path.name}: 8 pairs, in 1 request of 8 passages" in outcome.out
    assert "nDCG@10\n" in outcome.out
    longest, shorter = [line for line in outcome.out.splitlines() if line.startswith("max_length ")]
    assert longest.startswith("max_length 64: nDCG@10 0.")
    assert "first stage 0." in longest
    assert shorter.startswith("max_length 8: nDCG@10 0.")
    assert "; to the longest " in shorter
    assert "judged queries: 1;" in outcome.out


def test_when_every_setting_fails_the_code_says_so(model: str, texts: str) -> None:
    outcome = flag_rerank("bench", "--model", model, "--texts", texts, "--max-lengths", "128", "--device", "cpu")
    assert outcome.code == 1
    assert "FAILED   max_length 128" in outcome.out
    assert "nothing is recommended" in outcome.out


def test_ctrl_c_keeps_what_is_finished(model: str, texts: str, tmp_path: Path) -> None:
    ours, theirs = open_terminal(columns=120)  # errors go there: the bar tells how far it is
    process = subprocess.Popen(
        [
            *(*COMMAND, "bench", "--model", model, "--device", "cpu", "--texts", texts, "--out", str(tmp_path)),
            *("--max-lengths", "32,48", "--repeats", "50", "--seconds-per-point", "25", "--no-plot"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    started = read_terminal(ours, until=b" 2/100")
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    shown = started + read_terminal(ours)
    os.close(ours)
    figures = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert process.returncode == 130
    assert figures["interrupted"]
    assert 2 <= figures["measured"] < 100
    assert f"Interrupted: {figures['measured']} of 100 measurements were finished and are kept." in out.decode()
    assert f"flag-rerank: interrupted: kept {figures['measured']} of 100 measurements".encode() in shown
    assert b"Traceback" not in shown
    assert (tmp_path / "recommended.json").exists()
    assert not psutil.wait_procs(children, timeout=10)[1]


class TestMistakes:
    """Each is told in one line and ends with 2, before anything is measured."""

    @pytest.mark.parametrize(
        "arguments, told",
        [
            (["--max-length", "64", "--max-lengths", "32"], "--max-lengths and --max-length say the same"),
            (["--max-lengths", "3"], "max_length must be"),
            (["--max-lengths", ","], "max_lengths is empty"),
            (["--dtypes", "int3"], "dtype must be one of"),
            (["--repeats", "0"], "repeats must be"),
            (["--seconds-per-point", "nan"], "seconds_per_point must be"),
            (["--max-truncated", "2"], "max_truncated must be"),
            (["--pairs", "0"], "pairs must be"),
            (["--queries", "x.txt"], "--queries goes with --texts"),
            (["--run", "x.trec"], "--run goes with --qrels"),
            (["--qrels", "no/such/folder"], "no/such"),
            (["--min-ndcg-ratio", "2"], "min_ndcg_ratio must be"),
            (["--texts", "no/such/file"], "cannot read no/such/file"),
            (["--out", "/dev/null/x"], "cannot write to /dev/null/x"),
        ],
    )
    def test_before_anything_is_measured(self, arguments: list[str], told: str) -> None:
        outcome = flag_rerank("bench", *arguments)
        (line,) = outcome.err.splitlines()
        assert (outcome.code, outcome.out) == (2, "")
        assert line.startswith("flag-rerank: ")
        assert told in line

    def test_a_missing_extra(self, tmp_path: Path) -> None:
        """A finder that refuses matplotlib stands for an installation without it."""
        code = (
            "import importlib.util, sys\n"
            "find = importlib.util.find_spec\n"
            "importlib.util.find_spec = lambda name, *rest: None if name == 'matplotlib' else find(name, *rest)\n"
            "from flag_rerank_integrations.cli import main\n"
            f"sys.exit(main(['bench', '--out', {str(tmp_path / 'out')!r}]))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert "pip install 'flag-rerank-integrations[bench]'" in done.stderr
        assert not (tmp_path / "out").exists()


class TestTexts:
    def test_whole_requests(self, texts: str) -> None:
        expected = [(request["query"], request["passages"]) for request in REQUESTS]
        assert read_requests(texts, None, "utf-8", 20) == expected

    def test_lines_that_name_their_query(self, tmp_path: Path) -> None:
        pairs = [("a", "x"), ("b", "y"), ("a", "z")]
        source = lines_of(tmp_path / "t", *(json.dumps({"query": query, "text": text}) for query, text in pairs))
        assert read_requests(source, None, "utf-8", 20) == [("a", ["x", "z"]), ("b", ["y"])]

    def test_passages_and_queries_apart(self, tmp_path: Path) -> None:
        source = lines_of(tmp_path / "t", "one", "", "two", "three", "four")
        queries = lines_of(tmp_path / "q.jsonl", '{"_id": "1", "text": "who?"}', '"what?"')
        found = read_requests(source, queries, "utf-8", 2)
        assert [query for query, _ in found] == ["who?", "what?"]
        assert sorted(text for _, passages in found for text in passages) == ["four", "one", "three", "two"]

    @pytest.mark.parametrize(
        "lines, queries, told",
        [
            (['{"query": "a", "passages": ["x"]}', "b"], None, "line 2: not JSON"),
            (['{"query": "a", "passages": ["x"]}', "[]"], None, "line 2: must be an object with"),
            (['{"query": "a", "passages": "x"}'], None, "line 1: must be an object with"),
            (['{"query": 3, "passages": ["x"]}'], None, "line 1: must be an object with"),
            (["just text"], None, "line 1: the passage has no query; --queries FILE"),
            (['{"query": "a", "passages": ["x"]}'], ["q"], "leave out --queries"),
            (['{"query": "a", "text": "x"}', '{"text": "x"}'], None, "line 2: the passage has no query"),
            (["text"], [], "no queries"),
        ],
    )
    def test_what_cannot_be_read(self, lines: list[str], queries: list[str] | None, told: str, tmp_path: Path) -> None:
        source = lines_of(tmp_path / "texts", *lines)
        asked = None if queries is None else lines_of(tmp_path / "queries", *queries)
        with pytest.raises(InputError, match=told):
            read_requests(source, asked, "utf-8", 20)
