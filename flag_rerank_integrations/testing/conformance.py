"""What a conformance class says of the reranker under test, and what its tests share."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

import pytest

__all__ = ["MANY", "Conformance", "Item", "RerankerType"]

RerankerType = TypeVar("RerankerType")
Item = TypeVar("Item")

MANY: Final = 10_000
"""The limit that the tests set where they want everything back."""

_SUITE: Final = __package__


class Conformance(ABC, Generic[RerankerType, Item]):
    """What the tests of both frameworks need to know.

    The properties of the first part are there to be overridden; whatever a reranker does not
    claim to do is switched off there, and its tests are skipped. A known fault is no switch:
    override the test, mark it `@pytest.mark.xfail(reason="...")`, and call `super()`.
    """

    @property
    def query(self) -> str:
        """A query that some of the `texts` answer."""
        return "How many people live in Berlin?"

    @property
    def texts(self) -> list[str]:
        """At least five different passages, which the model should give different scores."""
        return [
            "New York City is famous for the Metropolitan Museum of Art, and for its bagels.",
            "Berlin has a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
            "The giant panda is a bear species endemic to China.",
            "Berlin is well known for its museums.",
            "How many rivers flow through the city, and how many bridges cross them, nobody has counted.",
            "Few people live in the mountains all year.",
        ]

    @property
    def top_n_param(self) -> str | None:
        """Name of the parameter that limits what is returned; None: there is none, and all is returned."""
        return "top_n"

    @property
    def score_threshold_param(self) -> str | None:
        """Name of the parameter for the least score that is returned; None: there is none."""
        return None

    @property
    def supports_unlimited(self) -> bool:
        """Whether a limit of None means all."""
        return True

    @property
    def supports_deepcopy(self) -> bool:
        """Whether `copy.deepcopy` of a reranker gives one that works."""
        return True

    @property
    def supports_pickle(self) -> bool:
        """Whether a reranker survives pickling, as process pools and task queues do it."""
        return True

    @property
    def supports_json(self) -> bool:
        """Whether a reranker can be stored as JSON and built again from it."""
        return True

    @property
    def supports_tracing(self) -> bool:
        """Whether a call is visible to the framework's callbacks."""
        return True

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        """The errors that count as a clear refusal of an input; pydantic's ValidationError is a ValueError."""
        return (ValueError,)

    @property
    def score_tolerance(self) -> float:
        """How far two scores of the same pair may lie apart: batches of other shapes round differently."""
        return 1e-4

    @property
    def callers(self) -> int:
        """How many threads, or tasks, ask at the same time."""
        return 8

    @property
    def big_list_size(self) -> int:
        """How many passages the longest list has."""
        return 300

    def reference_scores(self, query: str, texts: Sequence[str]) -> list[float] | None:  # noqa: ARG002 - overridden
        """Return the model's own scores, asked without the reranker; None: there is nothing to compare with.

        The order of a reranker that hides its scores can be tested against these alone.
        """
        return None

    def dispose(self, reranker: RerankerType) -> None:
        """Free what a reranker holds; after each test, for each reranker it made."""
        close = getattr(reranker, "close", None)
        if callable(close):
            close()

    # What the class of a framework says.

    @property
    @abstractmethod
    def shows_scores(self) -> bool:
        """Whether what comes out carries its score."""

    @abstractmethod
    def build(self, **changes: Any) -> RerankerType:  # noqa: ANN401 - any parameter's value
        """Return a new reranker from the subclass's own parameters, with changes."""

    @abstractmethod
    def items(self, texts: Sequence[str]) -> list[Item]:
        """Return new items with these texts, ids of their own, and `{"row": i}` among their metadata."""

    @abstractmethod
    def call(self, reranker: RerankerType, items: list[Item], query: str) -> Sequence[Item]:
        """Re-rank by the sync method."""

    @abstractmethod
    async def acall(self, reranker: RerankerType, items: list[Item], query: str) -> Sequence[Item]:
        """Re-rank by the async method."""

    @abstractmethod
    def id_of(self, item: Item) -> str | None:
        """Return an item's id."""

    @abstractmethod
    def text_of(self, item: Item) -> str:
        """Return an item's text, without metadata."""

    @abstractmethod
    def score_of(self, item: Item) -> Any:  # noqa: ANN401 - what kind of number it is, is under test
        """Return an item's score; None where it has none."""

    @abstractmethod
    def metadata_of(self, item: Item) -> dict[str, Any]:
        """Return an item's own metadata, not a copy."""

    @abstractmethod
    def state_of(self, item: Item) -> dict[str, Any]:
        """Return all that an item holds, as a copy in depth."""

    @abstractmethod
    def set_score(self, item: Item, score: float) -> None:
        """Give an item a score, as another reranker before this one would have."""

    @abstractmethod
    def json_of(self, item: Item) -> str:
        """Return an item as JSON, by the json module of the standard library."""

    @abstractmethod
    def through_json(self, reranker: RerankerType) -> RerankerType:
        """Store a reranker as JSON, and build another from it."""

    # What the tests share.

    @pytest.fixture(autouse=True)
    def _disposal(self) -> Iterator[None]:
        self._made: list[RerankerType] = []
        yield
        for reranker in self._made:
            self.dispose(reranker)

    def made(self, reranker: RerankerType) -> RerankerType:
        """Remember a reranker, to dispose of it after the test."""
        self._made.append(reranker)
        return reranker

    def make(self, **changes: Any) -> RerankerType:  # noqa: ANN401 - any parameter's value
        """Return a new reranker that returns everything, unless the changes limit it."""
        everything = {self.top_n_param: MANY} if self.top_n_param else {}
        return self.made(self.build(**{**everything, **changes}))

    def limited(self, top_n: int | None, **changes: Any) -> RerankerType:  # noqa: ANN401 - any parameter's value
        """Return a new reranker with a limit; the test is skipped where there is no such parameter."""
        if self.top_n_param is None:
            pytest.skip("top_n_param is None: the number returned cannot be limited")
        return self.make(**{self.top_n_param: top_n, **changes})

    def ranked(self, reranker: RerankerType, texts: Sequence[str], query: str | None = None) -> list[Item]:
        """Re-rank new items with these texts by the sync method."""
        return list(self.call(reranker, self.items(texts), self.query if query is None else query))

    def aranked(self, reranker: RerankerType, texts: Sequence[str], query: str | None = None) -> list[Item]:
        """Re-rank new items with these texts by the async method, on an event loop of its own."""
        return list(asyncio.run(self.acall(reranker, self.items(texts), self.query if query is None else query)))

    def both_ways(self, reranker: RerankerType, items: list[Item]) -> list[list[Item]]:
        """Re-rank items by the sync method, and then the same ones by the async method."""
        first = list(self.call(reranker, items, self.query))
        return [first, list(asyncio.run(self.acall(reranker, items, self.query)))]

    def marks(self, items: Sequence[Item]) -> list[Any]:
        """Tell items apart, equal texts too: by their row, or by id where the metadata is gone."""
        return [self.metadata_of(item).get("row", self.id_of(item)) for item in items]

    def scores_of(self, items: Sequence[Item], query: str | None = None) -> list[Any]:
        """Return the scores that items show, else those of the model itself; the test is skipped without either."""
        if self.shows_scores:
            return [self.score_of(item) for item in items]
        asked = self.query if query is None else query
        reference = self.reference_scores(asked, [self.text_of(item) for item in items])
        if reference is None:
            pytest.skip("no scores are shown, and there are no reference_scores")
        return reference

    def assert_same(self, found: Sequence[Item], expected: Sequence[Item]) -> None:
        """Compare two answers: the same items, scores equal but for rounding, order likewise."""
        names, expected_names = (
            list(zip(self.marks(items), map(self.text_of, items), strict=True)) for items in (found, expected)
        )
        assert sorted(names, key=repr) == sorted(expected_names, key=repr), "other items came back"
        if not self.shows_scores:
            assert names == expected_names, "the order differs"
            return
        known: Mapping[Any, Any] = dict(zip(expected_names, map(self.score_of, expected), strict=True))
        close = pytest.approx([known[name] for name in names], abs=self.score_tolerance)
        assert [self.score_of(item) for item in found] == close, "the scores differ"

    def test_overrides_are_explained(self) -> None:
        """A test is not overridden in silence: its `@pytest.mark.xfail` says the reason."""
        originals: dict[str, object] = {}
        for kind in type(self).__mro__:
            if kind.__module__.startswith(f"{_SUITE}."):
                originals |= {name: test for name, test in vars(kind).items() if name.startswith("test_")}
        current = {name: getattr(type(self), name, None) for name in originals}
        silent = [name for name, test in current.items() if test is not originals[name] and not _has_reason(test)]
        assert not silent, "overridden without @pytest.mark.xfail(reason=...)"


def _has_reason(test: object) -> bool:
    return any(mark.name == "xfail" and mark.kwargs.get("reason") for mark in getattr(test, "pytestmark", ()))
