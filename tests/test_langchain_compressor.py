"""FlagRerankCompressor called directly: order, copies, limits, batches, bad input."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_parts import QUERY, TEXTS, documents
from tiny_models import TinyModels

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import InputError
from flag_rerank_integrations.langchain import FlagRerankCompressor

KEY = "relevance_score"


@pytest.fixture(scope="module")
def live(tiny: TinyModels) -> Iterator[Reranker]:
    with Reranker(tiny("xlm-roberta"), device="cpu") as reranker:
        yield reranker


@pytest.fixture
def compressor(live: Reranker) -> FlagRerankCompressor:
    return FlagRerankCompressor(reranker=live)


def scores_of(found: list[Document]) -> list[float]:
    return [document.metadata[KEY] for document in found]


def test_the_order_and_the_scores_are_the_rerankers(compressor: FlagRerankCompressor, live: Reranker) -> None:
    found = compressor.compress_documents(documents(), QUERY)
    ranking = live.rank(QUERY, TEXTS)
    assert [document.metadata["row"] for document in found] == [passage.index for passage in ranking]
    assert scores_of(found) == pytest.approx([passage.score for passage in ranking], abs=1e-5)
    assert scores_of(found) == sorted(scores_of(found), reverse=True)
    assert all(type(score) is float for score in scores_of(found))
    assert json.loads(json.dumps([document.metadata for document in found]))[0][KEY] == scores_of(found)[0]


def test_ids_and_texts_are_kept_and_the_documents_given_are_not_touched(compressor: FlagRerankCompressor) -> None:
    given = documents()
    before = copy.deepcopy(given)
    found = compressor.compress_documents(given, QUERY)
    for document in found:
        original = given[document.metadata["row"]]
        assert (document.id, document.page_content) == (original.id, original.page_content)
        assert document is not original
        document.metadata["source"]["path"].append("changed")
        document.metadata["new"] = 1
    assert given == before


def test_metadata_that_cannot_be_copied_is_shared_and_the_rest_copied(compressor: FlagRerankCompressor) -> None:
    lock, tags = threading.Lock(), ["a"]
    found = compressor.compress_documents([Document("text", metadata={"lock": lock, "tags": tags})], QUERY)
    assert found[0].metadata["lock"] is lock
    assert found[0].metadata["tags"] == tags
    assert found[0].metadata["tags"] is not tags


def test_a_subclass_of_document_stays_what_it_is(compressor: FlagRerankCompressor) -> None:
    class Page(Document):
        number: int = 0

    found = compressor.compress_documents([Page("text", number=7)], QUERY)
    assert isinstance(found[0], Page)
    assert found[0].number == 7


def test_the_threshold_applies_before_top_n(compressor: FlagRerankCompressor) -> None:
    scores = scores_of(compressor.compress_documents(documents(), QUERY))
    for threshold in (scores[0], scores[2], scores[-1], scores[0] + 1):
        for top_n in (None, 0, 1, 3, 99):
            limited = compressor.model_copy(update={"score_threshold": threshold, "top_n": top_n})
            kept = scores_of(limited.compress_documents(documents(), QUERY))
            expected = [score for score in scores if score >= threshold][:top_n]
            assert kept == pytest.approx(expected, abs=1e-5)


def test_top_n_and_threshold_may_be_set_later(compressor: FlagRerankCompressor) -> None:
    compressor.top_n = 2
    assert len(compressor.compress_documents(documents(), QUERY)) == 2
    compressor.top_n = None
    assert len(compressor.compress_documents(documents(), QUERY)) == len(TEXTS)


def test_equal_documents_keep_their_order(compressor: FlagRerankCompressor) -> None:
    found = compressor.compress_documents(documents(["same text"] * 6), QUERY)
    assert [document.metadata["row"] for document in found] == list(range(6))
    assert len(set(scores_of(found))) == 1


def test_the_score_key_is_free_and_replaces_an_old_score(live: Reranker) -> None:
    compressor = FlagRerankCompressor(reranker=live, score_key="rank_score", truncation_key="unread")
    found = compressor.compress_documents(
        [Document("text", metadata={"rank_score": "old"}), Document("x " * 900)], QUERY
    )
    by_text = {document.page_content: document.metadata for document in found}
    assert by_text["text"].keys() == {"rank_score", "unread"}
    assert isinstance(by_text["text"]["rank_score"], float)
    assert by_text["text"]["unread"] == 0
    assert by_text["x " * 900]["unread"] > 0


def test_nothing_about_truncation_is_written_unasked(compressor: FlagRerankCompressor) -> None:
    found = compressor.compress_documents([Document("x " * 900)], QUERY)
    assert found[0].metadata.keys() == {KEY}


async def test_nothing_in_is_nothing_out_and_loads_no_model() -> None:
    compressor = FlagRerankCompressor(model="no/such-model", device="cpu", local_files_only=True)
    assert compressor.compress_documents([], QUERY) == []
    assert await compressor.acompress_documents((), QUERY) == []
    assert compressor.batch_compress([]) == []
    assert compressor.batch_compress([(QUERY, []), (QUERY, [])]) == [[], []]
    assert await compressor.abatch_compress([(QUERY, [])]) == [[]]
    assert compressor._source._loading is None


async def test_async_gives_what_sync_gives(compressor: FlagRerankCompressor) -> None:
    compressor.top_n = 3
    found = compressor.compress_documents(documents(), QUERY)
    assert await compressor.acompress_documents(documents(), QUERY) == found
    requests = [(QUERY, documents()), ("panda", documents()[:2]), (QUERY, [])]
    assert await compressor.abatch_compress(requests) == compressor.batch_compress(requests)


def test_a_batch_is_one_plan_with_the_answers_of_single_calls(tiny: TinyModels) -> None:
    requests = [(query, documents()) for query in (QUERY, "what is a giant panda?", "bagels")] + [("nothing", [])]
    with Reranker(tiny("xlm-roberta"), device="cpu") as reranker:
        compressor = FlagRerankCompressor(reranker=reranker, top_n=4)
        batched = compressor.batch_compress(iter(requests))
        assert reranker.stats().forward_passes == 1
        single = [compressor.compress_documents(found, query) for query, found in requests]
    assert [[doc.id for doc in found] for found in batched] == [[doc.id for doc in found] for found in single]
    for one, other in zip(batched, single, strict=True):
        assert scores_of(one) == pytest.approx(scores_of(other), abs=1e-5)


def test_any_iterable_of_documents_will_do(compressor: FlagRerankCompressor) -> None:
    expected = compressor.compress_documents(documents(), QUERY)
    assert compressor.compress_documents(iter(documents()), QUERY) == expected
    assert compressor.compress_documents(tuple(documents()), QUERY) == expected


@pytest.mark.parametrize(
    "found, query, told",
    [
        (["a text"], QUERY, r"documents\[0\] must be a Document, not str"),
        ([Document("a"), None], QUERY, r"documents\[1\] must be a Document, not NoneType"),
        (None, QUERY, "must be a sequence of Document objects, not NoneType"),
        ("a text", QUERY, "must be a sequence of Document objects, not str"),
        (Document("a"), QUERY, "must be a sequence of Document objects, not Document"),
        ([Document("a")], None, "query"),
        ([Document("a")], 3, "query"),
    ],
)
async def test_bad_input_is_one_clear_error(
    compressor: FlagRerankCompressor, found: Any, query: Any, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        compressor.compress_documents(found, query)
    with pytest.raises(InputError, match=told):
        await compressor.acompress_documents(found, query)
    with pytest.raises(InputError, match=told):
        compressor.batch_compress([(QUERY, documents()), (query, found)])
    assert len(compressor.compress_documents(documents(), QUERY)) == len(TEXTS)


@pytest.mark.parametrize("request_", ["text", (QUERY,), {"query": QUERY}])
def test_a_batch_takes_pairs_of_query_and_documents(compressor: FlagRerankCompressor, request_: Any) -> None:
    with pytest.raises(InputError, match=r"requests\[1\] must be a \(query, documents\) pair"):
        compressor.batch_compress([(QUERY, documents()), request_])


@pytest.mark.parametrize("text", ["", "\ud800 lone", "nul \x00 byte", "</s> <pad> <mask>", "\u202e\U0001f43c" * 50])
def test_odd_texts_are_ranked_like_any_other(compressor: FlagRerankCompressor, text: str) -> None:
    found = compressor.compress_documents([Document(text), *documents()], QUERY)
    assert len(found) == len(TEXTS) + 1
    assert text in [document.page_content for document in found]
