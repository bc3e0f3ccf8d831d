"""Conformance tests for LlamaIndex node postprocessors that re-rank."""

from __future__ import annotations

import copy
import json
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeRelationship, NodeWithScore, RelatedNodeInfo, TextNode

from flag_rerank_integrations.testing.concurrency import ConcurrencyTests
from flag_rerank_integrations.testing.copies import CopyTests
from flag_rerank_integrations.testing.llama_index_events import EventTests
from flag_rerank_integrations.testing.llama_index_nodes import NodeTests
from flag_rerank_integrations.testing.passages import PassageTests
from flag_rerank_integrations.testing.rankings import RankingTests
from flag_rerank_integrations.testing.storing import StoringTests

__all__ = ["NodePostprocessorConformance"]


class NodePostprocessorConformance(
    RankingTests[BaseNodePostprocessor, NodeWithScore],
    CopyTests[BaseNodePostprocessor, NodeWithScore],
    PassageTests[BaseNodePostprocessor, NodeWithScore],
    ConcurrencyTests[BaseNodePostprocessor, NodeWithScore],
    StoringTests[BaseNodePostprocessor, NodeWithScore],
    NodeTests,
    EventTests,
):
    """What users of a `BaseNodePostprocessor` that re-ranks may rely on.

    For example::

        class TestMine(NodePostprocessorConformance):
            @property
            def postprocessor_class(self) -> type[BaseNodePostprocessor]:
                return MyReranker

            @property
            def postprocessor_params(self) -> dict[str, Any]:
                return {"model": "path/to/a/small/model"}
    """

    @property
    @abstractmethod
    def postprocessor_class(self) -> type[BaseNodePostprocessor]:
        """The class under test."""

    @property
    def postprocessor_params(self) -> dict[str, Any]:
        """What it is made with, beside the parameters that the tests set."""
        return {}

    @property
    def shows_scores(self) -> bool:
        """Whether what comes out carries its score: `NodeWithScore` has a place for it."""
        return True

    def build(self, **changes: Any) -> BaseNodePostprocessor:  # noqa: ANN401 - any parameter's value
        """Return a new postprocessor."""
        return self.postprocessor_class(**{**self.postprocessor_params, **changes})

    def items(self, texts: Sequence[str]) -> list[NodeWithScore]:
        """Return new nodes with ids, embeddings, relationships and metadata, as a retriever would return them.

        The metadata that differs from node to node is kept from the model, so that equal texts are equal to it.
        """
        hidden = ["row", "source"]
        return [
            NodeWithScore(
                node=TextNode(
                    id_=f"id-{row}",
                    text=text,
                    embedding=[float(row), 1.0],
                    metadata={"row": row, "source": {"path": ["corpus", f"{row}.txt"]}, "title": "A city"},
                    excluded_embed_metadata_keys=list(hidden),
                    excluded_llm_metadata_keys=list(hidden),
                    relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"document-{row}")},
                ),
                score=1.0 - row / 1000,
            )
            for row, text in enumerate(texts)
        ]

    def call(self, reranker: BaseNodePostprocessor, items: list[NodeWithScore], query: str) -> Sequence[NodeWithScore]:
        """Call `postprocess_nodes`."""
        return reranker.postprocess_nodes(items, query_str=query)

    async def acall(
        self, reranker: BaseNodePostprocessor, items: list[NodeWithScore], query: str
    ) -> Sequence[NodeWithScore]:
        """Call `apostprocess_nodes`."""
        return await reranker.apostprocess_nodes(items, query_str=query)

    def id_of(self, item: NodeWithScore) -> str | None:
        """Return a node's id."""
        return item.node.node_id

    def text_of(self, item: NodeWithScore) -> str:
        """Return a node's text."""
        return item.node.get_content(MetadataMode.NONE)

    def score_of(self, item: NodeWithScore) -> Any:  # noqa: ANN401 - what kind of number it is, is under test
        """Return the score of a node."""
        return item.score

    def metadata_of(self, item: NodeWithScore) -> dict[str, Any]:
        """Return a node's own metadata."""
        return item.node.metadata

    def state_of(self, item: NodeWithScore) -> dict[str, Any]:
        """Return all fields of a node, its score among them."""
        return copy.deepcopy(item.model_dump())

    def set_score(self, item: NodeWithScore, score: float) -> None:
        """Set the score of a node."""
        item.score = score

    def json_of(self, item: NodeWithScore) -> str:
        """Return a node's fields as JSON."""
        return json.dumps(item.to_dict())

    def through_json(self, reranker: BaseNodePostprocessor) -> BaseNodePostprocessor:
        """Store a postprocessor by LlamaIndex's `to_json`, and build another from it."""
        return type(reranker).from_json(reranker.to_json())
