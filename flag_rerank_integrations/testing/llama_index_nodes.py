"""Tests of what LlamaIndex nodes carry through a re-ranking, and of how a query may be given."""

from __future__ import annotations

import asyncio

import pytest
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle

from flag_rerank_integrations.testing.conformance import Conformance

__all__ = ["NodeTests"]


class NodeTests(Conformance[BaseNodePostprocessor, NodeWithScore]):
    """Docstores, citations and auto-merging retrievers look nodes up by what these tests compare."""

    def test_results_are_nodes(self) -> None:
        """Both methods return `NodeWithScore` objects with nodes of the kind that went in."""
        items = self.items(self.texts)
        for found in self.both_ways(self.make(), items):
            assert {type(item) for item in found} == {NodeWithScore}
            assert {type(item.node) for item in found} == {type(items[0].node)}

    def test_embeddings_are_kept(self) -> None:
        """A node keeps the embedding it was found by."""
        for old, new in self._pairs():
            assert new.embedding == old.embedding

    def test_relationships_are_kept(self) -> None:
        """A node keeps its source document and neighbours."""
        for old, new in self._pairs():
            assert new.relationships == old.relationships

    def test_nodes_read_as_before(self) -> None:
        """In every metadata mode a node reads as before: a score written there would reach the LLM."""
        for old, new in self._pairs():
            for mode in MetadataMode:
                assert new.get_content(mode) == old.get_content(mode), mode

    def test_hashes_are_kept(self) -> None:
        """A node's hash is the one that a docstore knows it by."""
        for old, new in self._pairs():
            assert new.hash == old.hash

    def test_nodes_without_a_score(self) -> None:
        """Nodes of retrievers that give no score are re-ranked as any other."""
        reranker = self.make()
        items = self.items(self.texts)
        for item in items:
            item.score = None
        expected = self.ranked(reranker, self.texts)
        for found in self.both_ways(reranker, items):
            self.assert_same(found, expected)

    def test_a_query_bundle_is_as_good_as_its_text(self) -> None:
        """`query_bundle=` gives what `query_str=` gives."""
        reranker = self.make()
        found = reranker.postprocess_nodes(self.items(self.texts), query_bundle=QueryBundle(self.query))
        self.assert_same(found, self.ranked(reranker, self.texts))

    def test_a_missing_query_is_refused(self) -> None:
        """Nodes without any query are refused by a clear error (`refusals`)."""
        reranker = self.make()
        with pytest.raises(self.refusals):
            reranker.postprocess_nodes(self.items(self.texts))
        with pytest.raises(self.refusals):
            asyncio.run(reranker.apostprocess_nodes(self.items(self.texts)))

    def _pairs(self) -> list[tuple[BaseNode, BaseNode]]:
        """Return each node as it went in beside what came of it, by both methods."""
        before = {self.text_of(item): item.node for item in self.items(self.texts)}
        answers = self.both_ways(self.make(), self.items(self.texts))
        pairs = [(before[self.text_of(item)], item.node) for found in answers for item in found]
        assert len(pairs) == 2 * len(self.texts), "nodes are missing"
        return pairs
