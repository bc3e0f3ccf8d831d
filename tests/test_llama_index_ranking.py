"""FlagRerankPostprocessor: which nodes come out, in which order, with which scores, and what stays untouched."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.schema import (
    Document,
    ImageNode,
    IndexNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index_tools import QUERY, TEXTS, nodes_of, rerank

from flag_rerank_integrations import RankedPassage, Reranker
from flag_rerank_integrations.errors import ConfigError, InputError
from flag_rerank_integrations.llama_index import FlagRerankPostprocessor

NOWHERE = "/no/such/model"
"""A postprocessor of this model fails as soon as it loads one."""
both = pytest.mark.parametrize("mode", ["sync", "async"])


@pytest.fixture(scope="module")
def reranker(tiny: Any) -> Iterator[Reranker]:
    with Reranker(tiny("bert"), device="cpu") as live:
        yield live


def ids(nodes: list[NodeWithScore]) -> list[str]:
    return [node.node_id for node in nodes]


def best_first(reranker: Reranker, texts: list[str]) -> list[tuple[str, float]]:
    """Ids and scores by definition: each pair on its own, then a stable sort."""
    scores = [reranker.score([(QUERY, text)])[0] for text in texts]
    return sorted(((str(i), score) for i, score in enumerate(scores)), key=lambda place: -place[1])


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


def every_kind_of_node() -> list[NodeWithScore]:
    related = {
        NodeRelationship.SOURCE: RelatedNodeInfo(node_id="source", metadata={"page": [1]}),
        NodeRelationship.CHILD: [RelatedNodeInfo(node_id="child")],
    }
    common: dict[str, Any] = {
        "metadata": {"title": "T", "tags": ["a", {"b": 1}]},
        "excluded_llm_metadata_keys": ["title"],
        "relationships": related,
        "embedding": [0.5, 0.25],
    }
    text = MediaResource(text="Berlin")
    nodes = [
        TextNode(id_="text", text="Berlin", start_char_idx=3, **common),
        Document(id_="document", text_resource=text, **common),
        Node(id_="node", text_resource=text, image_resource=MediaResource(data=b"image"), **common),
        ImageNode(id_="image", text="a panda", image="aW1hZ2U=", **common),
        IndexNode(id_="index", text="museums", index_id="target", obj=threading.Lock(), **common),
    ]
    return [NodeWithScore(node=node, score=0.5) for node in nodes]


def state(item: NodeWithScore) -> Any:
    """Everything a node holds, a live object by its identity."""
    fields = dict(item.node)
    return item.score, [(k, id(v) if k == "obj" else repr(v)) for k, v in fields.items()], item.node.model_fields_set


@both
async def test_inputs_are_never_touched_nor_shared(reranker: Reranker, mode: str) -> None:
    nodes = every_kind_of_node()
    given, before = list(nodes), [state(item) for item in nodes]
    postprocessor = FlagRerankPostprocessor(reranker=reranker, keep_retrieval_score=True, score_key="relevance")
    output = await rerank(postprocessor, nodes, mode)
    assert sorted(ids(output)) == ["document", "image", "index", "node", "text"]
    for item in output:
        item.node.metadata["tags"][1]["b"] = "changed"
        item.node.metadata["title"] = "changed"
        item.node.relationships[NodeRelationship.SOURCE].metadata["page"].append("changed")
        item.node.relationships[NodeRelationship.CHILD].clear()
        item.node.excluded_llm_metadata_keys.append("changed")
        item.node.embedding.append(0.0)
        for resource in (getattr(item.node, name, None) for name in ("text_resource", "image_resource")):
            if resource is not None:
                resource.text = "changed"
    assert all(one is two for one, two in zip(nodes, given, strict=True))
    assert [state(item) for item in nodes] == before


async def test_copies_keep_everything_but_the_score(reranker: Reranker) -> None:
    nodes = every_kind_of_node()
    before = {item.node_id: state(item)[1:] for item in nodes}
    output = FlagRerankPostprocessor(reranker=reranker).postprocess_nodes(nodes, query_str=QUERY)
    assert {item.node_id: state(item)[1:] for item in output} == before
    assert {item.node_id: type(item.node) for item in output} == {item.node_id: type(item.node) for item in nodes}


def test_a_live_object_in_metadata_is_shared_and_the_rest_is_copied(reranker: Reranker) -> None:
    lock, pages = threading.Lock(), [1]
    nodes = nodes_of(["text"], metadata={"lock": lock, "pages": pages})
    (output,) = FlagRerankPostprocessor(reranker=reranker, metadata_mode="none").postprocess_nodes(
        nodes, query_str=QUERY
    )
    assert output.metadata["lock"] is lock
    assert output.metadata["pages"] == pages
    assert output.metadata["pages"] is not pages


def test_a_subclass_of_node_with_score_stays_one(reranker: Reranker) -> None:
    class Highlighted(NodeWithScore):
        words: list[str]

    nodes = [Highlighted(node=item.node, score=None, words=["Berlin"]) for item in nodes_of(TEXTS)]
    output = FlagRerankPostprocessor(reranker=reranker).postprocess_nodes(nodes, query_str=QUERY)
    assert [(type(item), item.words) for item in output] == [(Highlighted, ["Berlin"])] * len(TEXTS)


@pytest.mark.parametrize("metadata_mode", list(MetadataMode))
@both
async def test_the_model_reads_the_content_of_the_metadata_mode(
    reranker: Reranker, metadata_mode: MetadataMode, mode: str
) -> None:
    nodes = nodes_of(
        TEXTS,
        metadata={"city": "Berlin", "about": "people", "kind": "museum"},
        excluded_embed_metadata_keys=["city"],
        excluded_llm_metadata_keys=["about"],
    )
    contents = [item.get_content(metadata_mode) for item in nodes]
    output = await rerank(FlagRerankPostprocessor(reranker=reranker, metadata_mode=metadata_mode), nodes, mode)
    expected = best_first(reranker, contents)
    assert ids(output) == [place[0] for place in expected]
    assert [node.score for node in output] == pytest.approx([place[1] for place in expected], abs=1e-5)


def test_the_default_mode_is_that_of_embeddings() -> None:
    assert FlagRerankPostprocessor().metadata_mode is MetadataMode.EMBED


@both
@pytest.mark.parametrize("old", [0.75, 0.0, None])
async def test_the_retrieval_score_is_kept_out_of_sight(reranker: Reranker, mode: str, old: float | None) -> None:
    node = TextNode(text="Berlin", metadata={"title": "T"}, excluded_embed_metadata_keys=["title"])
    postprocessor = FlagRerankPostprocessor(reranker=reranker, keep_retrieval_score=True)
    (output,) = await rerank(postprocessor, [NodeWithScore(node=node, score=old)], mode)
    assert output.metadata == {"title": "T", "retrieval_score": old}
    assert output.score == pytest.approx(reranker.score([(QUERY, "Berlin")])[0], abs=1e-5)
    assert output.node.excluded_embed_metadata_keys == ["title", "retrieval_score"]
    assert output.node.excluded_llm_metadata_keys == ["retrieval_score"]
    for metadata_mode in (MetadataMode.EMBED, MetadataMode.LLM):
        assert output.get_content(metadata_mode) == node.get_content(metadata_mode)
    assert node.metadata == {"title": "T"}


def test_a_second_re_ranking_scores_the_same_text(reranker: Reranker) -> None:
    postprocessor = FlagRerankPostprocessor(reranker=reranker, keep_retrieval_score=True, score_key="relevance")
    once = postprocessor.postprocess_nodes(nodes_of(TEXTS), query_str=QUERY)
    twice = postprocessor.postprocess_nodes(once, query_str=QUERY)
    assert [item.score for item in twice] == pytest.approx([item.score for item in once], abs=1e-5)
    assert [item.metadata["retrieval_score"] for item in twice] == [item.score for item in once]
    assert {tuple(item.node.excluded_llm_metadata_keys) for item in twice} == {("retrieval_score", "relevance")}


def test_the_score_key_repeats_the_score_in_metadata(reranker: Reranker) -> None:
    postprocessor = FlagRerankPostprocessor(reranker=reranker, score_key="relevance_score")
    output = postprocessor.postprocess_nodes(nodes_of([*TEXTS, ""]), query_str=QUERY)
    assert [item.metadata.get("relevance_score") for item in output] == [item.score for item in output]
    assert output[0].get_content(MetadataMode.LLM) == output[0].node.text


def test_metadata_and_hash_stay_the_same_by_default(reranker: Reranker) -> None:
    nodes = nodes_of(TEXTS, metadata={"title": "T"})
    output = FlagRerankPostprocessor(reranker=reranker).postprocess_nodes(nodes, query_str=QUERY)
    assert {item.node_id: item.node.hash for item in output} == {item.node_id: item.node.hash for item in nodes}


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
