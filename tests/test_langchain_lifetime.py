"""The model of LangChain's wrappers: shared, loaded once and late, freed, and never carried in copies."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_parts import QUERY, TEXTS, documents, until
from tiny_models import SPECS, TinyModels, build

from flag_rerank_integrations import RankedPassage, RerankConfig, Reranker
from flag_rerank_integrations.errors import ConfigError, ModelLoadError, WorkerError
from flag_rerank_integrations.langchain import FlagCrossEncoder, FlagRerankCompressor

LOADER = "flag-rerank-load"


class Elsewhere:
    """Does some things as a Reranker does, is none, and has no config: as one that runs on a server might."""

    def __init__(self, reranker: Reranker, *verbs: str) -> None:
        for verb in verbs:
            setattr(self, verb, getattr(reranker, verb))


@pytest.fixture(scope="module")
def bert(tiny: TinyModels) -> str:
    return tiny("bert")


@pytest.fixture(scope="module")
def live(bert: str) -> Iterator[Reranker]:
    with Reranker(bert, device="cpu", max_length=64) as reranker:
        yield reranker


def loaders() -> set[int | None]:
    """The threads that load a model now."""
    return {thread.ident for thread in threading.enumerate() if thread.name == LOADER}


def texts_of(found: list[Any]) -> list[str]:
    return [document.page_content for document in found]


def test_copies_of_a_shared_reranker_follow_its_own_rule(live: Reranker) -> None:
    compressor = FlagRerankCompressor(reranker=live)
    assert copy.copy(compressor).reranker is live
    for copied in (copy.deepcopy(compressor), pickle.loads(pickle.dumps(compressor))):
        assert copied.reranker is not live
        assert copied == compressor
        assert copied.compress_documents(documents(), QUERY) == compressor.compress_documents(documents(), QUERY)
        copied.reranker.close()


def test_a_model_copy_shares_the_model_unless_an_option_changes(bert: str, live: Reranker) -> None:
    compressor = FlagRerankCompressor(model=bert, device="cpu", top_n=3)
    loaded = compressor._reranker()
    assert compressor.model_copy(update={"top_n": 1})._reranker() is loaded
    changed = compressor.model_copy(update={"normalize": True})
    assert (changed.top_n, changed.config) == (3, compressor.config.replace(normalize=True))
    assert changed._reranker() is not loaded
    assert compressor.model_copy(update={"reranker": live}).config is live.config
    own = FlagRerankCompressor(reranker=live, top_n=3).model_copy(update={"max_length": 32})
    assert (own.reranker, own.top_n, own.config) == (None, 3, live.config.replace(max_length=32))
    with pytest.raises(ConfigError, match="max_length must be"):
        compressor.model_copy(update={"max_length": 1})
    with pytest.raises(ConfigError, match="top_n must be"):
        compressor.model_copy(update={"top_n": -1})
    compressor.close()
    changed.close()


async def test_anything_with_the_methods_may_be_shared(live: Reranker) -> None:
    remote = Elsewhere(live, "rank", "arank", "rank_many", "arank_many")
    compressor = FlagRerankCompressor(reranker=remote, top_n=2)
    expected = FlagRerankCompressor(reranker=live, top_n=2).compress_documents(documents(), QUERY)
    assert compressor.compress_documents(documents(), QUERY) == expected
    assert await compressor.acompress_documents(documents(), QUERY) == expected
    assert compressor.batch_compress([(QUERY, documents())]) == [expected]
    assert await compressor.abatch_compress([(QUERY, documents())]) == [expected]
    assert compressor.config is None
    assert compressor.warm_up() is await compressor.awarm_up() is remote
    compressor.close()
    assert isinstance(live.rank(QUERY, TEXTS)[0], RankedPassage)
    scorer = FlagCrossEncoder(reranker=Elsewhere(live, "score", "ascore"))
    assert scorer.score([(QUERY, TEXTS[0])]) == await scorer.ascore([(QUERY, TEXTS[0])])


async def test_a_method_that_is_missing_is_named_by_what_needs_it(live: Reranker) -> None:
    with pytest.raises(ConfigError, match="it has no arank"):
        FlagRerankCompressor(reranker=Elsewhere(live, "rank", "score"))
    with pytest.raises(ConfigError, match="it has no score and no ascore"):
        FlagCrossEncoder(reranker=Elsewhere(live, "rank", "arank"))
    one_by_one = FlagRerankCompressor(reranker=Elsewhere(live, "rank", "arank"))
    assert len(one_by_one.compress_documents(documents(), QUERY)) == len(TEXTS)
    with pytest.raises(ConfigError, match="it has no rank_many"):
        one_by_one.batch_compress([(QUERY, documents())])
    with pytest.raises(ConfigError, match="it has no arank_many"):
        await one_by_one.abatch_compress([(QUERY, documents())])


def test_threads_that_come_first_share_one_load(bert: str) -> None:
    compressor = FlagRerankCompressor(model=bert, device="cpu")
    together = threading.Barrier(16)

    def first_use(_: int) -> tuple[Reranker, list[str]]:
        together.wait()
        return compressor._reranker(), texts_of(compressor.compress_documents(documents(), QUERY))

    with ThreadPoolExecutor(16) as pool:
        seen = list(pool.map(first_use, range(16)))
    assert len({id(reranker) for reranker, _ in seen}) == 1
    assert all(order == seen[0][1] for _, order in seen)
    compressor.close()


async def test_the_first_load_leaves_the_loop_and_its_threads_free(bert: str) -> None:
    compressor = FlagRerankCompressor(model=bert, device="cpu")
    calls = [asyncio.ensure_future(compressor.acompress_documents(documents(), QUERY)) for _ in range(64)]
    await until(lambda: bool(loaders()))
    first = loaders()
    for _ in range(10):  # the loop turns, and its pool has threads to spare, while all wait for the load
        await asyncio.to_thread(bool)
        assert loaders() == first
    answers = await asyncio.gather(*calls)
    assert len(first) == 1
    assert all(answer == answers[0] for answer in answers)
    compressor.close()


async def test_a_waiter_that_is_cancelled_leaves_the_load_to_the_others(bert: str) -> None:
    compressor = FlagRerankCompressor(model=bert, device="cpu")
    calls = [asyncio.ensure_future(compressor.acompress_documents(documents(), QUERY)) for _ in range(2)]
    await until(lambda: bool(loaders()))
    calls[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await calls[0]
    assert len(await calls[1]) == len(TEXTS)
    compressor.close()


def test_warm_up_loads_and_close_frees_until_the_next_use(bert: str) -> None:
    compressor = FlagRerankCompressor(model=bert, device="cpu")
    first = compressor.warm_up()
    assert compressor.warm_up() is compressor._reranker() is first
    before = compressor.compress_documents(documents(), QUERY)
    compressor.close()
    compressor.close()
    with pytest.raises(WorkerError, match="closed"):
        first.rank(QUERY, TEXTS)
    assert compressor.compress_documents(documents(), QUERY) == before
    assert compressor._reranker() is not first
    compressor.close()


async def test_warm_up_starts_a_shared_reranker_that_waits(bert: str) -> None:
    reranker = Reranker.from_config(RerankConfig(model=bert, device="cpu"), start=False)
    assert await FlagRerankCompressor(reranker=reranker).awarm_up() is reranker
    assert repr(reranker).endswith("loaded>")
    assert "not loaded" not in repr(reranker)
    reranker.close()


def test_closing_a_wrapper_leaves_a_shared_reranker_alone(live: Reranker) -> None:
    FlagRerankCompressor(reranker=live).close()
    assert len(live.score([(QUERY, TEXTS[0])])) == 1


async def test_a_failed_load_is_told_to_all_and_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "late"
    compressor = FlagRerankCompressor(model=str(path), device="cpu", local_files_only=True)
    calls = [compressor.acompress_documents(documents(), QUERY) for _ in range(4)]
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in errors] == [ModelLoadError] * 4
    with pytest.raises(ModelLoadError):
        compressor.warm_up()
    build(SPECS["bert"], path)
    assert len(compressor.compress_documents(documents(), QUERY)) == len(TEXTS)
    compressor.close()
