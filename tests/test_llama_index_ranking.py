"""FlagRerankPostprocessor: which nodes come out, in which order, with which scores."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.schema import (
    ImageNode,
    MediaResource,
    Node,
    NodeWithScore,
    QueryBundle,
    TextNode,
)
from llama_index_tools import QUERY, TEXTS, best_first, both, ids, nodes_of, rerank

from flag_rerank_integrations import RankedPassage, Reranker
from flag_rerank_integrations.errors import ConfigError, InputError
from flag_rerank_integrations.llama_index import FlagRerankPostprocessor

NOWHERE = "/no/such/model"
"""A postprocessor of this model fails as soon as it loads one."""


@pytest.fixture(scope="module")
def reranker(tiny: Any) -> Iterator[Reranker]:
    with Reranker(tiny("bert"), device="cpu") as live:
        yield live


@both
async def test_nodes_come_out_by_score_best_first(reranker: Reranker, mode: str) -> None:
    output = await rerank(FlagRerankPostprocessor(reranker=reranker), nodes_of(TEXTS), mode)
    expected = best_first(reranker, TEXTS)
    assert ids(output) == [place[0] for place in expected]
    assert [node.score for node in output] == pytest.approx([place[1] for place in expected], abs=1e-5)
    assert {type(node.score) for node in output} == {float}


def test_another_rerankers_scores_become_plain_floats(reranker: Reranker) -> None:
    class InNumpy:
        arank = reranker.arank

        def rank(self, *args: Any) -> list[RankedPassage]:
            return [RankedPassage(place.index, np.float32(place.score)) for place in reranker.rank(*args)]

    postprocessor = FlagRerankPostprocessor(reranker=InNumpy(), score_key="relevance")
    output = postprocessor.postprocess_nodes(nodes_of(TEXTS), query_str=QUERY)
    assert {type(item.score) for item in output} == {type(item.metadata["relevance"]) for item in output} == {float}


@both
async def test_equal_scores_keep_their_order(reranker: Reranker, mode: str) -> None:
    output = await rerank(FlagRerankPostprocessor(reranker=reranker), nodes_of(["same"] * 4 + ["other"] * 3), mode)
    assert [i for i in ids(output) if int(i) < 4] == ["0", "1", "2", "3"]
    assert [i for i in ids(output) if int(i) >= 4] == ["4", "5", "6"]


@both
@pytest.mark.parametrize("top_n", [None, 0, 1, 3, 5, 99])
async def test_top_n_limits(reranker: Reranker, mode: str, top_n: int | None) -> None:
    output = await rerank(FlagRerankPostprocessor(reranker=reranker, top_n=top_n), nodes_of(TEXTS), mode)
    assert ids(output) == [place[0] for place in best_first(reranker, TEXTS)][:top_n]


@both
async def test_the_threshold_is_inclusive_and_applies_before_top_n(reranker: Reranker, mode: str) -> None:
    everything = await rerank(FlagRerankPostprocessor(reranker=reranker), nodes_of(TEXTS), mode)
    least = everything[1].score
    for top_n, kept in ((None, 2), (1, 1), (4, 2)):
        postprocessor = FlagRerankPostprocessor(reranker=reranker, score_threshold=least, top_n=top_n)
        assert ids(await rerank(postprocessor, nodes_of(TEXTS), mode)) == ids(everything)[:kept]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(max_size=20), max_size=8),
    top_n=st.none() | st.integers(0, 10),
    threshold=st.none() | st.floats(-3, 3),
)
def test_any_texts_come_out_as_the_definition_says(
    reranker: Reranker, texts: list[str], top_n: int | None, threshold: float | None
) -> None:
    postprocessor = FlagRerankPostprocessor(reranker=reranker, top_n=top_n, score_threshold=threshold)
    output = postprocessor.postprocess_nodes(nodes_of(texts), query_str=QUERY)
    written = [str(i) for i, text in enumerate(texts) if text.strip()]
    scores = dict(zip(written, reranker.score([(QUERY, texts[int(i)]) for i in written]), strict=True))
    kept = sorted((i for i in written if threshold is None or scores[i] >= threshold), key=lambda i: -scores[i])
    blank = [str(i) for i in range(len(texts)) if str(i) not in scores]
    expected = kept + (blank if threshold is None else [])
    assert ids(output) == expected[:top_n]
    assert [node.score for node in output] == [scores.get(i) for i in expected[:top_n]]


def with_textless() -> list[NodeWithScore]:
    image = Node(id_="photo", image_resource=MediaResource(data=b"image"))
    scan = ImageNode(id_="scan", image="aW1hZ2U=")
    return [
        NodeWithScore(node=image, score=0.9),
        NodeWithScore(node=scan, score=0.8),
        *nodes_of(TEXTS[:2]),
        NodeWithScore(node=TextNode(id_="spaces", text=" \n")),
    ]


@both
async def test_nodes_without_text_come_last_unscored(
    reranker: Reranker, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="flag_rerank_integrations"):
        output = await rerank(FlagRerankPostprocessor(reranker=reranker), with_textless(), mode)
    assert ids(output) == [place[0] for place in best_first(reranker, TEXTS[:2])] + ["photo", "scan", "spaces"]
    assert [item.score is None for item in output] == [False, False, True, True, True]
    assert [record.getMessage() for record in caplog.records] == [
        "3 of 5 nodes have no text: they rank last, without a score."
    ]


@both
async def test_nodes_without_text_obey_threshold_and_top_n(reranker: Reranker, mode: str) -> None:
    limited = FlagRerankPostprocessor(reranker=reranker, top_n=3)
    assert ids(await rerank(limited, with_textless(), mode))[2:] == ["photo"]
    strict = FlagRerankPostprocessor(reranker=reranker, score_threshold=-1e9)
    assert sorted(ids(await rerank(strict, with_textless(), mode))) == ["0", "1"]


@both
async def test_an_image_with_metadata_is_scored_by_it(reranker: Reranker, mode: str) -> None:
    node = ImageNode(image="aW1hZ2U=", metadata={"caption": "people in Berlin"})
    (output,) = await rerank(FlagRerankPostprocessor(reranker=reranker), [NodeWithScore(node=node)], mode)
    assert output.score == pytest.approx(reranker.score([(QUERY, "caption: people in Berlin")])[0], abs=1e-5)


@both
async def test_no_nodes_and_no_text_need_no_model(mode: str) -> None:
    postprocessor = FlagRerankPostprocessor(model=NOWHERE)
    assert await rerank(postprocessor, [], mode) == []
    blank = NodeWithScore(node=TextNode(id_="blank", text=""), score=0.5)
    assert ids(await rerank(postprocessor, [blank], mode)) == ["blank"]


@pytest.mark.parametrize("nodes", [[], nodes_of(TEXTS)], ids=["empty", "some"])
async def test_a_missing_query_is_an_error(nodes: list[NodeWithScore]) -> None:
    postprocessor = FlagRerankPostprocessor(model=NOWHERE)
    with pytest.raises(ValueError, match=r"^Missing query bundle in extra info\.$"):
        postprocessor.postprocess_nodes(nodes)
    with pytest.raises(ValueError, match=r"^Missing query bundle in extra info\.$"):
        await postprocessor.apostprocess_nodes(nodes)
    with pytest.raises(ValueError, match="Cannot specify both"):
        postprocessor.postprocess_nodes(nodes, QueryBundle(QUERY), QUERY)


@pytest.mark.parametrize(
    "nodes, query, said",
    [
        ([TextNode(text="bare")], QueryBundle(QUERY), r"nodes\[0\] must be a NodeWithScore, not TextNode"),
        ([*nodes_of(TEXTS), None], QueryBundle(QUERY), r"nodes\[5\] must be a NodeWithScore, not NoneType"),
        (nodes_of(TEXTS), QUERY, "query_bundle must be a QueryBundle, not str"),
        (nodes_of(TEXTS), QueryBundle(None), "query must be a string"),
    ],
)
async def test_wrong_arguments_are_named_and_do_no_harm(
    reranker: Reranker, nodes: list[Any], query: Any, said: str
) -> None:
    postprocessor = FlagRerankPostprocessor(reranker=reranker)
    with pytest.raises(InputError, match=said):
        postprocessor.postprocess_nodes(nodes, query)
    with pytest.raises(InputError, match=said):
        await postprocessor.apostprocess_nodes(nodes, query)
    assert len(postprocessor.postprocess_nodes(nodes_of(TEXTS), query_str=QUERY)) == len(TEXTS)


def test_a_limit_changed_later_is_checked_at_once(reranker: Reranker) -> None:
    postprocessor = FlagRerankPostprocessor(reranker=reranker)
    postprocessor.top_n = 2
    assert len(postprocessor.postprocess_nodes(nodes_of(TEXTS), query_str=QUERY)) == 2
    with pytest.raises(ConfigError, match=r"top_n: .*, not -1"):
        postprocessor.top_n = -1
    assert postprocessor.top_n == 2


def test_sequences_other_than_lists_work(reranker: Reranker) -> None:
    postprocessor = FlagRerankPostprocessor(reranker=reranker)
    expected = ids(postprocessor.postprocess_nodes(nodes_of(TEXTS), query_str=QUERY))
    assert ids(postprocessor.postprocess_nodes(tuple(nodes_of(TEXTS)), query_str=QUERY)) == expected
    assert ids(postprocessor.postprocess_nodes(iter(nodes_of(TEXTS)), query_str=QUERY)) == expected
