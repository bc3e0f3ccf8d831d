"""The nodes that FlagRerankPostprocessor returns: copies that keep everything, and what is written into them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.schema import (
    Document,
    ImageNode,
    IndexNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeRelationship,
    NodeWithScore,
    RelatedNodeInfo,
    TextNode,
)
from llama_index_tools import QUERY, TEXTS, best_first, both, ids, nodes_of, rerank

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.llama_index import FlagRerankPostprocessor


@pytest.fixture(scope="module")
def reranker(tiny: Any) -> Iterator[Reranker]:
    with Reranker(tiny("bert"), device="cpu") as live:
        yield live


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
