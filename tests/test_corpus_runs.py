"""A corpus is re-ranked by a real Ray on this machine; runs are interrupted, resumed, and lose their workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import guide_pages
import light_model
import pyarrow as pa
import pytest
import ray
from pyarrow import parquet
from ray.cluster_utils import Cluster
from ray_tools import processes_of, running_cluster, script, surroundings

from flag_rerank_integrations import RayOptions, RerankConfig, Reranker
from flag_rerank_integrations.corpus import RankRows, rerank_corpus
from flag_rerank_integrations.errors import ConfigError, InputError, ModelLoadError, WorkerDied

ROWS = 300


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster(num_cpus=2) as made:
        yield made


@dataclass(frozen=True)
class Scene:
    """A cluster, a model, a corpus, and the order in which one process ranks each row's passages."""

    cluster: Cluster
    model: str
    rows: list[dict[str, Any]]
    expected: list[list[int]]


@pytest.fixture(scope="module")
def scene(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    model = light_model.write(tmp_path_factory.mktemp("light") / "model")
    passages = [f"giant panda bear {i} " * (i % 30 + 1) for i in range(ROWS + 10)]
    rows = [{"id": f"q{i}", "query": f"bear {i}", "passages": passages[i : i + 10]} for i in range(ROWS)]
    with Reranker(model, device="cpu") as alone:
        found = alone.rank_many([(row["query"], row["passages"]) for row in rows], top_n=4)
    return Scene(cluster, model, rows, [[passage.index for passage in ranking] for ranking in found])


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a corpus in the format that the name says."""
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=70)
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def read(directory: Path) -> list[dict[str, Any]]:
    """All rows of a run's output, in order."""
    rows: list[dict[str, Any]] = []
    for path in sorted(directory.glob("part-*")):
        if path.suffix == ".parquet":
            rows += parquet.read_table(path).to_pylist()
        else:
            rows += map(json.loads, path.read_text().splitlines())
    return rows


def orders(rows: list[dict[str, Any]]) -> list[list[int]]:
    return [[found["index"] for found in row["ranking"]] for row in rows]


def wait_until(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def interrupt(driver: subprocess.Popen[bytes], output: Path, how: signal.Signals) -> dict[Path, int]:
    """Send a signal in the middle of a run, and return what is finished by then, with the time of its writing."""
    wait_until(lambda: len(list(output.glob("part-*"))) >= 3 or driver.poll() is not None)
    driver.send_signal(how)
    said = driver.communicate()[1].decode()
    assert driver.returncode in (-how, 1), said
    wait_until(lambda: not processes_of("MapWorker"))
    return {path: path.stat().st_mtime_ns for path in output.glob("part-*")}


@pytest.mark.parametrize("suffix, how", [("jsonl", signal.SIGINT), ("parquet", signal.SIGKILL)])
def test_an_interrupted_run_is_resumed(scene: Scene, tmp_path: Path, suffix: str, how: signal.Signals) -> None:
    corpus, output = written(tmp_path / f"corpus.{suffix}", scene.rows), tmp_path / "out"
    code = """
        from flag_rerank_integrations import RerankConfig
        from flag_rerank_integrations.corpus import rerank_corpus
        rerank_corpus(CORPUS, OUTPUT, RerankConfig(MODEL, device="ray:2"), top_n=4, part_bytes=9000)
    """
    command = script(code, CORPUS=str(corpus), OUTPUT=str(output), MODEL=scene.model)
    driver = subprocess.Popen(command, env=surroundings(scene.cluster), stderr=subprocess.PIPE)
    before = interrupt(driver, output, how)
    assert len(before) >= 3

    config = RerankConfig(scene.model, ray=RayOptions(num_workers=1))
    summary = rerank_corpus(corpus, output, config, top_n=4, part_bytes=9000)
    assert summary.skipped_parts == len(before) < summary.parts
    assert 0 < summary.rows < ROWS
    assert summary.failed_rows == 0
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    found = read(output)
    assert [(row["id"], row["query"], row["passages"]) for row in found] == [
        (row["id"], row["query"], row["passages"]) for row in scene.rows
    ]
    assert orders(found) == scene.expected
    assert not [path for path in output.iterdir() if path.name.startswith(".")]
    again = rerank_corpus(corpus, output, config, top_n=4, part_bytes=9000)
    assert (again.skipped_parts, again.rows) == (summary.parts, 0)


def test_bad_rows_are_told_and_the_others_ranked(scene: Scene, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    good = json.dumps({"frage": "Was?", "texte": ["so", "und so"], "ranking": "old"})
    bad = ["no json", "[1]", '{"frage": 3, "texte": []}', '{"frage": "x", "texte": "y"}', '{"frage": "", "texte": [1]}']
    corpus.write_text("\n".join([good, *bad, json.dumps({"frage": "leer", "texte": []})]))
    summary = rerank_corpus(
        [corpus], tmp_path / "out", RerankConfig(scene.model, device="ray"),
        query_column="frage", passages_column="texte", progress=False,
    )  # fmt: skip
    assert (summary.rows, summary.failed_rows) == (7, 5)
    first, *wrong, last = read(tmp_path / "out")
    assert {found["index"] for found in first["ranking"]} == {0, 1}
    assert first["ranking"][0]["score"] >= first["ranking"][1]["score"]
    assert (first["rank_error"], last["ranking"], last["rank_error"]) == (None, [], None)
    assert [row["ranking"] for row in wrong] == [None] * 5
    reasons = ["not JSON", "holds list", "frage is int", "texte is str", "texte[0] is int"]
    assert all(reason in row["rank_error"] for reason, row in zip(reasons, wrong, strict=True))
    assert wrong[0]["line"] == "no json"


def test_a_passage_too_long_is_its_own_row_s_affair(scene: Scene, tmp_path: Path) -> None:
    rows = [{"query": "bear", "passages": ["short"]}, {"query": "bear", "passages": ["long " * 500]}]
    corpus = written(tmp_path / "corpus.parquet", rows)
    config = RerankConfig(scene.model, device="ray", max_length=32, long_passages="error")
    assert rerank_corpus(corpus, tmp_path / "out", config, progress=False).failed_rows == 1
    short, long = read(tmp_path / "out")
    assert (len(short["ranking"]), short["rank_error"], long["ranking"]) == (1, None, None)
    assert "longer than fits" in long["rank_error"]


@pytest.mark.parametrize("kills", [1, 3])
def test_a_worker_is_lost_over_a_part(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str], kills: int
) -> None:
    """A part is tried three times; then the run ends, and what was finished stays."""
    corpus, output = written(tmp_path / "corpus.jsonl", scene.rows), tmp_path / "out"

    def kill() -> None:
        for number in range(kills):
            mark = output / f".part-00001.jsonl.try{number}"
            wait_until(mark.exists)
            for pid in processes_of("MapWorker"):
                os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    config = RerankConfig(scene.model, device="ray")
    if kills == 1:
        summary = rerank_corpus(corpus, output, config, top_n=4, part_bytes=400_000)
        assert summary.rows == ROWS
        assert orders(read(output)) == scene.expected
        assert f"{summary.parts}/{summary.parts}" in capsys.readouterr().err  # the progress bar is full
    else:
        with pytest.raises(WorkerDied, match=r"3 workers have ended over part-00001\.jsonl"):
            rerank_corpus(corpus, output, config, top_n=4, part_bytes=400_000, progress=False)
    thread.join()


@pytest.mark.parametrize(
    "change, kind, said",
    [
        ({"config": RerankConfig("/no/such/model", device="ray")}, ModelLoadError, "no directory"),
        ({"passages_column": "texts"}, InputError, "no column 'texts'; there are id, query, passages"),
        ({"config": RerankConfig(device="cpu:2")}, ConfigError, "is of this machine"),
        ({"config": "quickstart"}, ConfigError, "must be a RerankConfig"),
        ({"top_n": -1}, ConfigError, "top_n"),
        ({"part_bytes": 0}, ConfigError, "part_bytes"),
        ({"inputs": "/no/such/file.jsonl"}, InputError, "is no file"),
    ],
)
def test_what_is_wrong_with_a_run_is_one_clear_error(
    scene: Scene, tmp_path: Path, change: dict[str, Any], kind: type[Exception], said: str
) -> None:
    options = {
        "inputs": written(tmp_path / "corpus.parquet", scene.rows[:3]), "output": tmp_path / "out",
        "config": RerankConfig(scene.model, device="ray"), "progress": False, **change,
    }  # fmt: skip
    with pytest.raises(kind, match=said):
        rerank_corpus(**options)
    assert not list(tmp_path.glob("out/part-*"))


def test_the_examples_of_the_scaling_page_run(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(guide_pages.run("docs/scaling.md", capsys)) == 5


def test_rows_are_ranked_inside_somebody_s_own_pipeline(scene: Scene) -> None:
    ranked = ray.data.from_items(scene.rows).map_batches(
        RankRows,
        fn_constructor_kwargs={"config": RerankConfig(scene.model), "top_n": 4},
        batch_format="pyarrow",
        batch_size=64,
        compute=ray.data.ActorPoolStrategy(size=2),
    )
    assert orders(sorted(ranked.take_all(), key=lambda row: int(row["id"][1:]))) == scene.expected
