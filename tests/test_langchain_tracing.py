"""What LangChain's handlers see of a re-ranking: one run, in its place, always ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.config import set_config_context
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langchain_parts import QUERY, TEXTS, GatedRecorder, ListRetriever, Recorder, documents, until
from safetensors.torch import load_file, save_file
from tiny_models import SPECS, TinyModels, build

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import InputError, WorkerError
from flag_rerank_integrations.langchain import FlagRerankCompressor

NAME = "FlagRerankCompressor"


@pytest.fixture(scope="module")
def live(tiny: TinyModels) -> Iterator[Reranker]:
    with Reranker(tiny("bert"), device="cpu") as reranker:
        yield reranker


@pytest.fixture
def compressor(live: Reranker) -> FlagRerankCompressor:
    return FlagRerankCompressor(reranker=live, top_n=2)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


class StopAtStart(BaseCallbackHandler):
    """Raises when a run starts."""

    raise_error = True

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_retriever_start(self, *_: Any, **__: Any) -> None:
        raise self.error


async def call(compressor: FlagRerankCompressor, way: str, query: Any, found: list[Document], callbacks: Any) -> Any:
    """Compress in one of the four ways."""
    if way == "compress":
        return compressor.compress_documents(found, query, callbacks)
    if way == "acompress":
        return await compressor.acompress_documents(found, query, callbacks)
    if way == "batch":
        return compressor.batch_compress([(query, found), (QUERY, found)], callbacks)[0]
    return (await compressor.abatch_compress([(query, found), (QUERY, found)], callbacks))[0]


WAYS = pytest.mark.parametrize("way, runs", [("compress", 1), ("acompress", 1), ("batch", 2), ("abatch", 2)])


@WAYS
async def test_a_call_is_a_run_with_its_query_facts_and_documents(
    compressor: FlagRerankCompressor, recorder: Recorder, live: Reranker, way: str, runs: int
) -> None:
    found = await call(compressor, way, QUERY, documents(), [recorder])
    starts, ends = recorder.notes.of("start", NAME), recorder.notes.of("end", NAME)
    assert (len(starts), len(ends), recorder.notes.unbalanced) == (runs, runs, [])
    assert starts[0].payload == QUERY
    assert starts[0].metadata == {
        "ls_retriever_name": "flag_rerank",
        "model": live.config.model,
        "device": "cpu",
        "candidates": len(TEXTS),
        "top_n": 2,
    }
    assert found in [note.payload for note in ends]
    assert recorder.notes.of("error") == []


@WAYS
async def test_an_empty_call_is_a_run_too(
    compressor: FlagRerankCompressor, recorder: Recorder, way: str, runs: int
) -> None:
    assert await call(compressor, way, QUERY, [], [recorder]) == []
    assert [note.payload for note in recorder.notes.of("end", NAME)] == [[]] * runs
    assert recorder.notes.unbalanced == []


@WAYS
async def test_a_query_that_cannot_be_scored_ends_the_run_with_its_error(
    compressor: FlagRerankCompressor, recorder: Recorder, way: str, runs: int
) -> None:
    with pytest.raises(InputError) as caught:
        await call(compressor, way, 3, documents(), [recorder])
    assert [note.payload for note in recorder.notes.of("error", NAME)] == [caught.value] * runs
    assert recorder.notes.of("end") == []
    assert recorder.notes.unbalanced == []


@WAYS
async def test_a_model_that_gives_no_number_ends_the_run_with_its_error(
    tmp_path: Path, recorder: Recorder, way: str, runs: int
) -> None:
    build(SPECS["bert"], tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["classifier.bias"].fill_(float("nan"))
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    compressor = FlagRerankCompressor(model=str(tmp_path), device="cpu")
    with pytest.raises(WorkerError, match="not a number") as caught:
        await call(compressor, way, QUERY, documents(), [recorder])
    assert [note.payload for note in recorder.notes.of("error", NAME)] == [caught.value] * runs
    assert recorder.notes.unbalanced == []
    compressor.close()


def test_handlers_that_raise_leave_no_earlier_run_open(compressor: FlagRerankCompressor, recorder: Recorder) -> None:
    with pytest.raises(RuntimeError, match="stop"):
        compressor.compress_documents(documents(), QUERY, [StopAtStart(RuntimeError("stop"))])
    assert len(compressor.compress_documents(documents(), QUERY, [recorder])) == 2
    assert recorder.notes.unbalanced == []


def test_an_interrupt_ends_the_run(live: Reranker, recorder: Recorder) -> None:
    class Interrupted:
        """A reranker whose caller presses Ctrl-C while it waits."""

        score, rank_many = live.score, live.rank_many
        ascore, arank, arank_many = live.ascore, live.arank, live.arank_many

        def rank(self, *_: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FlagRerankCompressor(reranker=Interrupted()).compress_documents(documents(), QUERY, [recorder])
    assert [type(note.payload) for note in recorder.notes.of("error", NAME)] == [KeyboardInterrupt]
    assert recorder.notes.all[0].metadata is not None
    assert recorder.notes.all[0].metadata["reranker"] == "Interrupted"
    assert "model" not in recorder.notes.all[0].metadata


@pytest.mark.parametrize("way", ["acompress", "abatch"])
async def test_a_call_cancelled_while_it_scores_ends_its_runs(
    compressor: FlagRerankCompressor, live: Reranker, way: str
) -> None:
    before = live.stats().forward_passes
    recorder = GatedRecorder(is_open=True)
    many = documents([f"{text} {i}" for i in range(400) for text in TEXTS])
    task = asyncio.ensure_future(call(compressor, way, QUERY, many, [recorder]))
    await until(lambda: live.stats().forward_passes > before)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {type(note.payload) for note in recorder.notes.of("error")} == {asyncio.CancelledError}
    assert recorder.notes.unbalanced == []
    assert len(await compressor.acompress_documents(documents(), QUERY)) == 2


@pytest.mark.parametrize("way", ["acompress", "abatch"])
async def test_a_call_cancelled_while_it_starts_ends_its_runs(compressor: FlagRerankCompressor, way: str) -> None:
    recorder = GatedRecorder(is_open=False)
    task = asyncio.ensure_future(call(compressor, way, QUERY, documents(), [recorder]))
    await recorder.arrived.wait()
    task.cancel()
    await asyncio.sleep(0)
    recorder.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [note.kind for note in recorder.notes.all] == ["start", "error"]
    assert recorder.notes.unbalanced == []


async def test_a_call_that_times_out_ends_its_run(compressor: FlagRerankCompressor) -> None:
    recorder = GatedRecorder(is_open=False)
    asyncio.get_running_loop().call_later(0.05, recorder.gate.set)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(compressor.acompress_documents(documents(), QUERY, [recorder]), 0.01)
    assert [note.kind for note in recorder.notes.all] == ["start", "error"]


def test_without_callbacks_nobody_is_told(compressor: FlagRerankCompressor, recorder: Recorder) -> None:
    compressor.compress_documents(documents(), QUERY, [recorder])
    before = len(recorder.notes.all)
    compressor.compress_documents(documents(), QUERY)
    compressor.compress_documents(documents(), QUERY, [])
    assert len(recorder.notes.all) == before


async def test_without_callbacks_a_chain_around_the_call_is_told(
    compressor: FlagRerankCompressor, recorder: Recorder
) -> None:
    def inside(_: str) -> list[Document]:
        return compressor.compress_documents(documents(), QUERY)

    def silent(_: str) -> list[Document]:
        return compressor.compress_documents(documents(), QUERY, [])

    collector = RunCollectorCallbackHandler()
    config = {"callbacks": [recorder, collector], "tags": ["mine"], "metadata": {"user": "u"}}
    RunnableLambda(inside, name="around").invoke("", config)
    start = recorder.notes.of("start", NAME)[0]
    around = collector.traced_runs[0]
    assert start.parent_run_id == around.id
    assert start.tags == ("mine",)
    assert start.metadata is not None
    assert start.metadata["user"] == "u"
    RunnableLambda(silent).invoke("", config)
    assert len(recorder.notes.of("start", NAME)) == 1
    assert recorder.notes.unbalanced == []


def test_a_config_set_for_the_context_is_followed(compressor: FlagRerankCompressor, recorder: Recorder) -> None:
    config = {"callbacks": [recorder], "tags": ["mine"], "metadata": {"user": "u"}}
    with set_config_context(config) as context:
        context.run(compressor.compress_documents, documents(), QUERY)
    start = recorder.notes.of("start", NAME)[0]
    assert start.tags == ("mine",)
    assert start.metadata is not None
    assert (start.metadata["user"], start.metadata["ls_retriever_name"]) == ("u", "flag_rerank")


def test_a_manager_makes_the_run_its_child(compressor: FlagRerankCompressor, recorder: Recorder) -> None:
    parent = CallbackManager([], inheritable_handlers=[recorder]).on_chain_start({}, {})
    compressor.compress_documents(documents(), QUERY, parent.get_child("tagged"))
    start = recorder.notes.of("start", NAME)[0]
    assert (start.parent_run_id, start.tags) == (parent.run_id, ("tagged",))


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_run_nests_under_a_compression_retriever(compressor: FlagRerankCompressor, *, is_async: bool) -> None:
    collector, recorder = RunCollectorCallbackHandler(), Recorder()
    retriever = ContextualCompressionRetriever(
        base_compressor=compressor, base_retriever=ListRetriever(found=documents())
    )
    config: Any = {"callbacks": [collector, recorder]}
    found = await retriever.ainvoke(QUERY, config) if is_async else retriever.invoke(QUERY, config)
    root = collector.traced_runs[0]
    assert (root.name, [run.name for run in root.child_runs]) == (
        "ContextualCompressionRetriever",
        ["ListRetriever", NAME],
    )
    child = root.child_runs[1]
    assert (child.run_type, child.inputs, child.outputs) == ("retriever", {"query": QUERY}, {"documents": found})
    assert child.extra["metadata"]["ls_retriever_name"] == "flag_rerank"
    assert recorder.notes.unbalanced == []


async def test_a_failure_in_a_pipeline_is_an_error_of_each_run(
    compressor: FlagRerankCompressor, recorder: Recorder
) -> None:
    retriever = ContextualCompressionRetriever(
        base_compressor=compressor, base_retriever=ListRetriever(found=documents())
    )
    with pytest.raises(InputError):
        retriever.invoke(3, {"callbacks": [recorder]})
    with pytest.raises(InputError):
        await retriever.ainvoke(3, {"callbacks": [recorder]})
    assert len(recorder.notes.of("error", NAME)) == 2
    assert len(recorder.notes.of("error", "ContextualCompressionRetriever")) == 2
    assert recorder.notes.unbalanced == []
