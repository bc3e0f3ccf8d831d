"""The command `flag-rerank` in real processes: what it prints, and its exit codes, mistakes included."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from cli_tools import COMMAND, Outcome, flag_rerank, on_terminal, open_terminal, read_terminal

from flag_rerank_integrations import Reranker, __version__, cli
from flag_rerank_integrations.cli import devices

QUERY = "How many people live in Berlin?"
PASSAGES = [
    "New York City is famous for the Metropolitan Museum of Art.",
    "Berlin has a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
    "Berlin is well known for its museums.",
]
BEST = 1
TEXT = "\n".join(PASSAGES) + "\n"
MODEL = ("--model", "quickstart", "--device", "cpu")


def rows(outcome: Outcome) -> list[dict[str, object]]:
    """Read JSON lines, none of which may be anything but JSON."""
    return [json.loads(line) for line in outcome.out.splitlines()]


def complaint(outcome: Outcome) -> str:
    """Return the one line of standard error."""
    (line,) = outcome.err.splitlines()
    assert line.startswith("flag-rerank: ")
    return line


class TestRank:
    def test_json_is_what_the_reranker_says(self, tmp_path: Path) -> None:
        file = tmp_path / "passages.txt"
        file.write_text(TEXT, encoding="utf-8")
        outcome = flag_rerank("rank", "-q", QUERY, str(file), "--json", *MODEL)
        with Reranker("quickstart", device="cpu") as reranker:
            ranking = reranker.rank(QUERY, PASSAGES)
        assert (outcome.code, outcome.err) == (0, "")
        assert [row["index"] for row in rows(outcome)] == [ranked.index for ranked in ranking]
        assert [row["score"] for row in rows(outcome)] == [ranked.score for ranked in ranking]
        assert [row["rank"] for row in rows(outcome)] == [1, 2, 3]
        assert ranking[0].index == BEST

    def test_table_through_a_pipe(self) -> None:
        outcome = flag_rerank("rank", "--query", QUERY, *MODEL, stdin="\n" + TEXT.replace("\n", "\r\n"))
        header, first, *others = outcome.out.splitlines()
        assert (outcome.code, outcome.err) == (0, "")
        assert header.split() == ["rank", "score", "passage"]
        assert first.split()[0] == "1"
        assert first.endswith(PASSAGES[BEST])
        assert len(others) == 2

    def test_limits_and_normalized_scores(self) -> None:
        outcome = flag_rerank("rank", "-q", QUERY, "--json", "--normalize", "--threshold", "0.5", *MODEL, stdin=TEXT)
        (row,) = rows(outcome)
        assert row["index"] == BEST
        assert 0.99 < float(str(row["score"])) <= 1
        assert flag_rerank("rank", "-q", QUERY, "--json", "--top-n", "0", *MODEL, stdin=TEXT).out == ""

    def test_json_lines_keep_their_objects(self) -> None:
        objects = [{"id": index, "page_content": text} for index, text in enumerate(PASSAGES)]
        lines = "\n\n".join(map(json.dumps, objects))
        outcome = flag_rerank("rank", "-q", QUERY, "--json", "--top-n", "1", *MODEL, stdin=lines)
        (row,) = rows(outcome)
        assert row["record"] == objects[BEST]
        assert row["line"] == 1 + 2 * BEST

    def test_queries_may_come_with_the_passages(self) -> None:
        asked = [("panda", "hi"), (QUERY, PASSAGES[0]), ("panda", "The giant panda is a bear."), (QUERY, PASSAGES[1])]
        lines = "\n".join(json.dumps({"query": query, "text": text}) for query, text in asked)
        outcome = flag_rerank("rank", "--json", *MODEL, stdin=lines)
        assert [(row["query"], row["index"], row["rank"]) for row in rows(outcome)] == [
            ("panda", 2, 1),
            ("panda", 0, 2),
            (QUERY, 3, 1),
            (QUERY, 1, 2),
        ]

    def test_a_progressive_ranking_tells_how_far_each_passage_got(self, layered: Any) -> None:
        options = ["--model", layered("layerwise"), "--device", "cpu", "--progressive", "3:0.5,5:0.25", "--json"]
        outcome = flag_rerank("rank", "-q", "panda", *options, stdin="a\nb\nc\nd\n")
        assert (outcome.code, outcome.err) == (0, "")
        assert [json.loads(line)["layer"] for line in outcome.out.splitlines()] == [8, 5, 3, 3]

    def test_nothing_to_rank_is_no_failure(self) -> None:
        outcome = flag_rerank("rank", "-q", QUERY, stdin="\n \n")
        assert (outcome.code, outcome.out) == (0, "")
        assert "no passages" in complaint(outcome)

    def test_a_reader_may_leave_early(self) -> None:
        process = subprocess.Popen(
            [*COMMAND, "rank", "-q", QUERY, *MODEL],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(TEXT.encode())
        process.stdin.close()
        assert process.wait(timeout=110) == 0
        assert process.stderr.read() == b""
        process.stderr.close()


class TestTerminal:
    def test_long_work_shows_a_bar_and_a_table_that_fits(self, tmp_path: Path) -> None:
        file = tmp_path / "passages.txt"
        # Chinese characters take two columns each.
        file.write_text("".join(f"passage {i}: {'大熊猫' * 20}\n" for i in range(70)), encoding="utf-8")
        outcome = on_terminal("rank", "-q", "panda", "--top-n", "3", str(file), *MODEL, columns=60)
        assert outcome.code == 0
        assert "70/70" in outcome.out
        table = outcome.out.splitlines()[-3:]
        assert all(line.endswith("…") for line in table)
        assert {sum(2 if unicodedata.east_asian_width(c) == "W" else 1 for c in line) for line in table} <= {59, 60}

    def test_short_work_shows_no_bar(self, tmp_path: Path) -> None:
        file = tmp_path / "passages.txt"
        file.write_text(TEXT, encoding="utf-8")
        outcome = on_terminal("rank", "-q", QUERY, str(file), *MODEL)
        assert outcome.code == 0
        assert len(outcome.out.splitlines()) == 1 + len(PASSAGES)


class TestEncodings:
    def test_an_ascii_locale_gets_escapes_and_valid_json(self) -> None:
        query, passage = "什么是大熊猫?", "大熊猫 🐼"
        poor = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        outcome = flag_rerank(
            "rank", "--json", *MODEL, stdin=json.dumps({"query": query, "text": passage}) + "\n", **poor
        )
        (row,) = rows(outcome)
        assert outcome.code == 0
        assert outcome.out.isascii()
        assert (row["query"], row["text"]) == (query, passage)
        table = flag_rerank("rank", "-q", query, *MODEL, stdin=passage, **poor)
        assert table.code == 0
        assert "\\u5927" in table.out

    def test_a_query_is_understood_in_any_locale(self) -> None:
        """The bytes on the command line are UTF-8, whatever the locale makes of them."""
        query = "Qu'est-ce que la crème brûlée?"
        poor = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        plain = flag_rerank("rank", "-q", query, "--json", *MODEL, stdin=TEXT, PYTHONUTF8="1")
        assert rows(flag_rerank("rank", "-q", query, "--json", *MODEL, stdin=TEXT, **poor)) == rows(plain)

    def test_input_in_another_encoding(self) -> None:
        content = "大熊猫\nBerlin\n".encode("gb18030")
        outcome = flag_rerank("rank", "-q", "Berlin", "--json", "--encoding", "gb18030", *MODEL, stdin=content)
        assert {row["text"] for row in rows(outcome)} == {"大熊猫", "Berlin"}

    def test_a_byte_order_mark_is_no_text(self) -> None:
        content = '\ufeff{"text": "one"}\n'.encode()
        assert [row["text"] for row in rows(flag_rerank("rank", "-q", "x", "--json", *MODEL, stdin=content))] == ["one"]


class TestMistakes:
    """Each is told in one line and ends with 2, without a traceback."""

    @pytest.mark.parametrize(
        "arguments, stdin, told",
        [
            (["-q", "x", "no/such/file.txt"], "", "no/such/file.txt"),
            (["-q", "x", "."], "", "directory"),
            (["-q", "x"], '{"text": "a"}\n{"text": \n', "line 2: not JSON"),
            (["-q", "x"], '{"text": "a"}\n\n["a"]\n', "line 3: a passage is a string or an object, not an array"),
            (["-q", "x"], '{"text": "a"}\n{"txt": "a"}\n', "line 2: the object has none of the keys text"),
            (["-q", "x"], '{"text": null}\n', "line 1: 'text' must be a string, not null"),
            (["-q", "x"], '{"text": "a", "query": 3}\n', "line 1: 'query' must be a string, not a number"),
            (["-q", "x", "--format", "jsonl"], "not json\n", "line 1: not JSON"),
            (["-q", "x"], b"one\ntwo \xff\n", "line 2: not utf-8"),
            (["-q", "x", "--encoding", "klingon"], "a\n", "klingon"),
            ([], "a\n", "-q"),
            (["-q", "x", "--top-n", "-1"], "a\n", "--top-n"),
            (["-q", "x", "--threshold", "nan"], "a\n", "--threshold"),
            (["-q", "x", "--dtype", "int3"], "a\n", "dtype"),
            (["-q", "x", "--max-length", "3"], "a\n", "max_length"),
        ],
    )
    def test_before_anything_is_loaded(self, arguments: list[str], stdin: str | bytes, told: str) -> None:
        outcome = flag_rerank("rank", *arguments, stdin=stdin)
        assert (outcome.code, outcome.out) == (2, "")
        assert told in complaint(outcome)

    @pytest.mark.parametrize(
        "arguments, told",
        [
            (["--device", "warp:3"], "warp:3"),
            (["--device", "cuda:99"], "there is"),
            (["--model", "./no-such-model"], "no-such-model"),
            (["--model", "quickstart", "--max-length", "9999"], "512"),
        ],
    )
    def test_while_loading(self, arguments: list[str], told: str) -> None:
        outcome = flag_rerank("rank", "-q", "x", *arguments, stdin="a\n")
        assert (outcome.code, outcome.out) == (2, "")
        assert told in complaint(outcome)

    @pytest.mark.parametrize("arguments", [[], ["sing"], ["rank", "--top-n", "many"], ["rank", "--modle", "x"]])
    def test_of_usage(self, arguments: list[str]) -> None:
        outcome = flag_rerank(*arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.startswith("usage: flag-rerank")

    def test_a_failure_at_run_time_is_another_code(self) -> None:
        outcome = flag_rerank("rank", "-q", QUERY, "--timeout", "0.001", *MODEL, stdin=TEXT)
        assert (outcome.code, outcome.out) == (1, "")
        assert "timeout" in complaint(outcome)


class TestInterrupt:
    """Ctrl-C ends with 130, nothing on standard output, and no traceback."""

    def test_while_reading(self) -> None:
        with subprocess.Popen(
            [*COMMAND, "rank", "-q", QUERY, "-v", *MODEL],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stderr is not None
            assert b"Reading" in process.stderr.readline()
            os.kill(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (130, b"")
        assert err == b"flag-rerank: interrupted\n"

    def test_while_scoring(self, tmp_path: Path) -> None:
        file = tmp_path / "passages.txt"
        file.write_text("".join(f"{i} {' '.join(PASSAGES)}\n" for i in range(2000)), encoding="utf-8")
        ours, theirs = open_terminal(columns=80)  # errors go there: the bar tells that scoring has begun
        process = subprocess.Popen(
            [*COMMAND, "rank", "-q", QUERY, str(file), *MODEL],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        started = read_terminal(ours, until=b"pair/s")
        os.kill(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        shown = started + read_terminal(ours)
        os.close(ours)
        assert b"pair/s" in started
        assert (process.returncode, out) == (130, b""), shown.decode()
        assert b"flag-rerank: interrupted" in shown
        assert b"Traceback" not in shown

    def test_that_comes_out_as_another_error(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As where it hits a library that is about to note that it holds a lock."""
        lock = threading.Lock()

        def scan(_arguments: object) -> int:
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                lock.release()
            return 0

        monkeypatch.setattr(devices, "_run", scan)
        assert cli.main(["devices"]) == 130
        assert capsys.readouterr().err == "flag-rerank: interrupted\n"
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        monkeypatch.setattr(devices, "_run", lambda _arguments: lock.release())
        with pytest.raises(RuntimeError, match="unlocked"):
            cli.main(["devices"])

    def test_is_left_to_whoever_handles_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        handled: list[int] = []
        before = signal.signal(signal.SIGINT, lambda number, _frame: handled.append(number))
        try:
            monkeypatch.setattr(devices, "_run", lambda _arguments: signal.raise_signal(signal.SIGINT) or 3)
            assert cli.main(["devices"]) == 3
        finally:
            signal.signal(signal.SIGINT, before)
        assert handled == [signal.SIGINT]


class TestOthers:
    def test_version(self) -> None:
        assert flag_rerank("--version") == Outcome(0, f"flag-rerank {__version__}\n", "")

    @pytest.mark.parametrize("command", [[], ["rank"], ["devices"], ["demo"], ["bench"]])
    def test_help_fits_a_page(self, command: list[str]) -> None:
        outcome = flag_rerank(*command, "--help", COLUMNS="120")
        assert outcome.code == 0
        assert outcome.out.startswith("usage: flag-rerank")
        assert max(map(len, outcome.out.splitlines())) <= 120

    def test_devices_as_json(self) -> None:
        outcome = flag_rerank("devices", "--json")
        (found,) = rows(outcome)
        assert outcome.code == 0
        assert isinstance(found["devices"], list)
        names = [device["device"] for device in found["devices"]]
        assert "cpu" in names
        assert found["auto"] in names
        assert str(found["reason"]).startswith(f"auto takes {found['auto']}")

    def test_devices_as_a_table(self) -> None:
        outcome = flag_rerank("devices")
        header, *devices, reason = outcome.out.splitlines()
        assert header.split() == ["device", "free", "total", "name"]
        assert any(line.startswith("cpu ") for line in devices)
        assert reason.startswith("auto takes ")
