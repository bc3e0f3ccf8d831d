"""Tests that a reranker leaves alone what it is given, and returns all of it."""

from __future__ import annotations

from flag_rerank_integrations.testing.conformance import Conformance, Item, RerankerType

__all__ = ["CopyTests"]

_OLD_SCORE = 123.0


class CopyTests(Conformance[RerankerType, Item]):
    """Retrievers and caches hold on to what they return: a reranker that writes into it changes their data."""

    def test_the_list_given_is_not_changed(self) -> None:
        """The list holds the same objects in the same order after a call."""
        items = self.items(self.texts)
        given = list(items)
        self.both_ways(self.make(), items)
        assert len(items) == len(given), "the list that was given has another length"
        assert all(item is old for item, old in zip(items, given, strict=True)), "the list given was reordered"

    def test_inputs_are_not_changed(self) -> None:
        """Text, id, metadata and score of what was given stay as they were."""
        items = self.items(self.texts)
        given = list(items)
        before = [self.state_of(item) for item in given]
        self.both_ways(self.make(), items)
        assert [self.state_of(item) for item in given] == before

    def test_outputs_are_copies(self) -> None:
        """A score or a metadata value that is set on an output does not appear on the input."""
        items = self.items(self.texts)
        for found in self.both_ways(self.make(), items):
            after = [self.state_of(item) for item in items]
            for item in found:
                self.set_score(item, _OLD_SCORE)
                self.metadata_of(item)["written"] = True
            assert [self.state_of(item) for item in items] == after

    def test_nested_metadata_is_copied(self) -> None:
        """A list inside an output's metadata is not the input's list."""
        items = self.items(self.texts)
        for found in self.both_ways(self.make(), items):
            after = [self.state_of(item) for item in items]
            for item in found:
                self.metadata_of(item)["source"]["path"].append("written")
            assert [self.state_of(item) for item in items] == after

    def test_everything_comes_back_once(self) -> None:
        """Without a limit, each text comes back exactly once."""
        for found in self.both_ways(self.make(), self.items(self.texts)):
            assert sorted(map(self.text_of, found)) == sorted(self.texts)

    def test_ids_are_kept(self) -> None:
        """What comes out has the id under which it is stored elsewhere."""
        items = self.items(self.texts)
        ids = {self.text_of(item): self.id_of(item) for item in items}
        for found in self.both_ways(self.make(), items):
            assert {self.text_of(item): self.id_of(item) for item in found} == ids

    def test_metadata_is_kept(self) -> None:
        """What comes out has all metadata of what went in, with the same values."""
        known = {self.text_of(item): self.metadata_of(item) for item in self.items(self.texts)}
        for found in self.both_ways(self.make(), self.items(self.texts)):
            for item in found:
                old, new = known[self.text_of(item)], self.metadata_of(item)
                assert {name: new.get(name) for name in old} == old

    def test_an_old_score_is_replaced(self) -> None:
        """What another reranker scored before gets this one's score."""
        reranker = self.make()
        expected = self.ranked(reranker, self.texts)
        items = self.items(self.texts)
        if self.shows_scores:
            for item in items:
                self.set_score(item, _OLD_SCORE)
        for found in self.both_ways(reranker, items):
            self.assert_same(found, expected)
