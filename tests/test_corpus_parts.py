"""Cutting a corpus into parts loses no row and no byte; a directory never holds half a file or two runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from flag_rerank_integrations import RerankConfig
from flag_rerank_integrations.corpus.manifest import claim, content_of
from flag_rerank_integrations.corpus.parts import find_files, plan, read_lines, read_table, write_lines, write_table
from flag_rerank_integrations.corpus.storage import place_of
from flag_rerank_integrations.errors import ConfigError, InputError

LINES = st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=12), max_size=30)


@settings(deadline=None)
@given(lines=LINES, part_bytes=st.integers(1, 80), end=st.sampled_from(["", "\n"]))
def test_every_line_is_read_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], part_bytes: int, end: str
) -> None:
    path = tmp_path_factory.mktemp("lines") / "corpus.jsonl"
    path.write_bytes(("\n".join(lines) + end).encode())
    files = find_files([str(path)])
    parts = plan(files, part_bytes)
    assert [line for part in parts for line in read_lines(files[0], part)] == [line for line in lines if line.strip()]
    assert [part.output for part in parts] == sorted(part.output for part in parts)


def test_a_byte_order_mark_and_long_lines(tmp_path: Path) -> None:
    path = tmp_path / "corpus.ndjson"
    long = json.dumps({"text": "大熊猫" * 60_000}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf{}\r\n" + long.encode() + b"\n\n{}")
    files = find_files([str(path)])
    for part_bytes in (5000, 100_000, 1 << 20):
        lines = [line for part in plan(files, part_bytes) for line in read_lines(files[0], part)]
        assert [json.loads(line) for line in lines] == [{}, json.loads(long), {}]


@pytest.mark.parametrize("part_bytes", [1, 300, 1 << 20])
@pytest.mark.parametrize("row_group_size", [1, 7, 100])
def test_every_table_row_is_read_once_and_in_order(tmp_path: Path, part_bytes: int, row_group_size: int) -> None:
    path = tmp_path / "corpus.parquet"
    table = pa.table({"id": range(50), "query": [f"query {i}" for i in range(50)]})
    parquet.write_table(table, path, row_group_size=row_group_size)
    files = find_files([str(tmp_path)])
    parts = plan(files, part_bytes)
    assert pa.concat_tables([read_table(files[0], part) for part in parts]) == table
    assert len(parts) >= 50 // row_group_size


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    output = place_of(str(tmp_path))
    rows = [{"text": "大熊猫 \ud800 \n"}, {"score": 0.1}]
    write_lines(output / "a.jsonl", rows)
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").splitlines()] == rows
    assert "大熊猫" in (tmp_path / "a.jsonl").read_text("utf-8")
    write_table(output / "a.parquet", pa.table({"a": [1, 2]}))
    assert parquet.read_table(tmp_path / "a.parquet").to_pydict() == {"a": [1, 2]}
    assert output.names() == ["a.jsonl", "a.parquet"]


def test_a_file_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    def write(stream: Any) -> None:
        stream.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        (place_of(str(tmp_path)) / "a.jsonl").write(write)
    assert not list(tmp_path.iterdir())


def test_inputs_are_files_directories_and_uris(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.parquet", ".hidden.jsonl", "_run.json", "readme.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [Path(file.path).name for file in find_files([str(tmp_path)])] == ["a.parquet", "b.jsonl"]
    assert find_files([f"file://{tmp_path}/b.jsonl"])[0].path == str(tmp_path / "b.jsonl")


@pytest.mark.parametrize(
    "name, said",
    [("missing.jsonl", "is no file"), ("readme.txt", "ends in none"), ("", "is no file"), ("nowhere://x", "pyarrow")],
)
def test_an_input_that_cannot_be_read_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(InputError, match=said):
        find_files([name if "://" in name else str(tmp_path / name)])
    with pytest.raises(InputError, match="no input"):
        find_files([])


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"hello, this is text")
    with pytest.raises(InputError, match="no Parquet file"):
        plan(find_files([str(tmp_path)]), 100)


def test_a_directory_belongs_to_one_run(tmp_path: Path) -> None:
    output, description = place_of(str(tmp_path / "out")), {"model": "a", "top_n": 3}
    assert claim(output, description) == []
    (tmp_path / "out" / "part-00000.jsonl").write_text("{}")
    (tmp_path / "out" / ".part-00001.jsonl.try0").write_text("")
    with pytest.raises(ConfigError, match="another run: its model differ"):
        claim(output, {**description, "model": "b"})
    assert len(output.names()) == 3
    assert "part-00000.jsonl" in claim(output, description)
    assert output.names() == ["_run.json", "part-00000.jsonl"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("keep me")
    with pytest.raises(ConfigError, match=r"something else, such as 'notes\.txt'"):
        claim(place_of(str(tmp_path / "other")), description)
    assert (tmp_path / "other" / "notes.txt").read_text() == "keep me"


def test_a_run_may_be_resumed_on_other_machines_but_not_with_another_model() -> None:
    one = RerankConfig(model="a", ray={"num_workers": 4}, timeout=5)  # type: ignore[arg-type]
    assert content_of(one) == content_of(RerankConfig(model="a", device="ray", progress=True))
    assert content_of(one) != content_of(one.replace(max_length=512))
    assert content_of(one) != content_of(one.replace(model="b"))
