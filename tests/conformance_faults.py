"""The sound rerankers, each with one fault, under the conformance tests: run by tests/test_conformance_faults.py.

Each fault says in `breaks` which tests must fail for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from langchain_core.callbacks import CallbackManager
from langchain_core.documents import Document
from llama_index.core.instrumentation.events.rerank import ReRankStartEvent
from llama_index.core.schema import Document as TextDocument
from llama_index.core.schema import NodeWithScore, QueryBundle
from sound_rerankers import KEY, Compressor, Postprocessor, Ranking, dispatcher, overlap

from flag_rerank_integrations.testing import DocumentCompressorConformance, NodePostprocessorConformance
from flag_rerank_integrations.testing.conformance import MANY


class CompressorTests(DocumentCompressorConformance):
    score_threshold_param = "score_threshold"

    def reference_scores(self, query: str, texts: Sequence[str]) -> list[float]:
        return [overlap(query, text) for text in texts]


class PostprocessorTests(NodePostprocessorConformance):
    score_threshold_param = "score_threshold"

    def reference_scores(self, query: str, texts: Sequence[str]) -> list[float]:
        return [overlap(query, f"title: A city\n\n{text}") for text in texts]


class TestSoundCompressor(CompressorTests):
    compressor_class = Compressor


class TestSoundPostprocessor(PostprocessorTests):
    postprocessor_class = Postprocessor


class TestSilentOverride(CompressorTests):
    compressor_class = Compressor
    breaks = ("overrides_are_explained",)

    def test_ids_are_kept(self) -> None:
        """Nothing."""


# Faults that both frameworks' rerankers can have.


class WritesIntoInputs(Ranking):
    breaks = ("inputs_are_not_changed", "outputs_are_copies")

    def copied(self, item: Any, score: float) -> Any:
        if isinstance(item, Document):
            item.metadata[KEY] = score
        else:
            item.score = score
        return item


class SortsTheListGiven(Ranking):
    breaks = ("the_list_given_is_not_changed",)

    def rank(self, items: Any, query: str) -> list[Any]:
        items.sort(key=lambda item: -self.score(query, self.text(item)))
        return super().rank(items, query)


class SharesNestedMetadata(Ranking):
    breaks = ("nested_metadata_is_copied",)

    def copied(self, item: Any, score: float) -> Any:
        made = super().copied(item, score)
        (made if isinstance(item, Document) else made.node).metadata["source"] = metadata(item)["source"]
        return made


class LosesTheWorst(Ranking):
    breaks = ("everything_comes_back_once",)

    def order(self, places: list[Any]) -> list[Any]:
        return super().order(places)[: max(1, len(places) - 1)]


class DropsIds(Ranking):
    breaks = ("ids_are_kept",)

    def copied(self, item: Any, score: float) -> Any:
        made = super().copied(item, score)
        if isinstance(made, Document):
            made.id = None
        else:
            made.node.id_ = "another"
        return made


class DropsMetadata(Ranking):
    breaks = ("metadata_is_kept",)

    def copied(self, item: Any, score: float) -> Any:
        made = super().copied(item, score)
        metadata(made).pop("source")
        return made


class KeepsAnOldScore(Ranking):
    breaks = ("an_old_score_is_replaced",)

    def copied(self, item: Any, score: float) -> Any:
        old = item.metadata.get(KEY) if isinstance(item, Document) else item.score
        return super().copied(item, old if old is not None and old > 1 else score)


class WorstFirst(Ranking):
    breaks = ("best_comes_first", "async_is_best_first", "a_big_list")

    def order(self, places: list[Any]) -> list[Any]:
        return sorted(places, key=lambda place: place[0])


class ScoresOfAnotherKind(Ranking):
    breaks = ("scores_are_the_models",)

    def score(self, query: str, text: str) -> float:
        return super().score(query, text) / 2


class NumpyScores(Ranking):
    breaks = ("scores_are_plain_floats", "outputs_are_json")

    def score(self, query: str, text: str) -> Any:
        return np.float32(super().score(query, text))


class LiveMetadata(Ranking):
    breaks = ("outputs_are_json",)

    def copied(self, item: Any, score: float) -> Any:
        made = super().copied(item, score)
        metadata(made)["reranker"] = object()
        return made


class ReversesTies(Ranking):
    breaks = ("ties_keep_their_order",)

    def order(self, places: list[Any]) -> list[Any]:
        return sorted(places, key=lambda place: place[0])[::-1]


class FailsOnNothing(Ranking):
    breaks = ("nothing_gives_nothing",)

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        assert texts
        return super().scores(query, texts)


class FailsOnOne(Ranking):
    breaks = ("one_item",)

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        scores = np.asarray(super().scores(query, texts)).squeeze()
        return [float(score) for score in scores]


class IgnoresTopN(Ranking):
    breaks = ("top_n_returns_the_best", "top_n_zero")

    def limit(self) -> int | None:
        return None


class CutsBeforeRanking(Ranking):
    breaks = ("top_n_returns_the_best",)

    def rank(self, items: Any, query: str) -> list[Any]:
        return super().rank(items[: self.top_n], query)


class FailsAboveTheNumber(Ranking):
    breaks = ("top_n_larger_than_the_list",)

    def rank(self, items: Any, query: str) -> list[Any]:
        assert self.top_n in (None, MANY) or self.top_n <= len(items)
        return super().rank(items, query)


class TakesZeroForAll(Ranking):
    breaks = ("top_n_zero",)

    def limit(self) -> int | None:
        return self.top_n or None


class TakesNoneForThree(Ranking):
    breaks = ("top_n_none_is_all",)

    def limit(self) -> int | None:
        return 3 if self.top_n is None else self.top_n


class IgnoresThreshold(Ranking):
    breaks = ("threshold_keeps_the_best",)

    def keeps(self, score: float) -> bool:
        return True


class RemembersPassages(Ranking):
    breaks = ("calls_do_not_depend_on_earlier_ones",)

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        known = vars(self).setdefault("known", {})
        return [known.setdefault(text, self.score(query, text)) for text in texts]


class MixesUpThreads(Ranking):
    breaks = ("threads_get_their_own_answers", "tasks_get_their_own_answers")

    def rank(self, items: Any, query: str) -> list[Any]:
        vars(self)["asked"] = query
        time.sleep(0.005)
        return super().rank(items, vars(self)["asked"])


class RejectsDuplicates(Ranking):
    breaks = ("duplicate_passages_are_all_kept",)

    def rank(self, items: Any, query: str) -> list[Any]:
        return super().rank(list({self.text(item): item for item in items}.values()), query)


class ScoresByPlace(Ranking):
    breaks = ("duplicate_passages_score_the_same",)

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        return [score - place / 100 for place, score in enumerate(super().scores(query, texts))]


class FailsOnBlankPassages(Ranking):
    breaks = ("blank_passages", "only_blank_passages")

    def score(self, query: str, text: str) -> float:
        assert text.removeprefix("title: A city").strip()
        return super().score(query, text)


class FailsOnBlankQueries(Ranking):
    breaks = ("blank_query",)

    def score(self, query: str, text: str) -> float:
        return super().score(query, text) / len(query.split()) * len(query.split())


class ReturnsAscii(Ranking):
    breaks = ("every_script",)

    def copied(self, item: Any, score: float) -> Any:
        made = super().copied(item, score)
        if isinstance(made, Document):
            made.page_content = made.page_content.encode("ascii", "ignore").decode()
        else:
            made.node.set_content(made.node.text.encode("ascii", "ignore").decode())
        return made


class EncodesTexts(Ranking):
    breaks = ("lone_surrogates",)

    def score(self, query: str, text: str) -> float:
        return super().score(query, text.encode().decode())


class FailsOnLongPassages(Ranking):
    breaks = ("passages_longer_than_the_model_reads",)

    def score(self, query: str, text: str) -> float:
        assert len(text.split()) <= 512
        return super().score(query, text)


class RanksBatchByBatch(Ranking):
    breaks = ("a_big_list",)

    def order(self, places: list[Any]) -> list[Any]:
        batches = (places[start : start + 64] for start in range(0, len(places), 64))
        return [place for batch in batches for place in super(RanksBatchByBatch, self).order(batch)]


class CannotBeStored(Ranking):
    breaks = (
        "a_deep_copy_ranks_the_same",
        "a_pickled_copy_ranks_the_same",
        "a_copy_through_json_ranks_the_same",
    )

    def refuse(self, *_: Any, **__: Any) -> Any:
        msg = "a live client cannot be stored"
        raise TypeError(msg)

    __deepcopy__ = __reduce_ex__ = model_dump_json = to_json = refuse  # type: ignore[assignment]


# Faults of one framework's rerankers.


class WorstFirstWhenAsync(Compressor):
    breaks: ClassVar = ("async_is_best_first",)

    async def acompress_documents(self, *arguments: Any, **options: Any) -> Any:
        return list(reversed(self.compress_documents(*arguments, **options)))


class HalfWhenAsync(Compressor):
    breaks: ClassVar = ("async_equals_sync",)

    async def acompress_documents(self, *arguments: Any, **options: Any) -> Any:
        found = self.compress_documents(*arguments, **options)
        return [Compressor.copied(self, document, document.metadata[KEY] / 2) for document in found]


class MixesUpTasks(Compressor):
    breaks: ClassVar = ("tasks_get_their_own_answers",)

    async def acompress_documents(self, documents: Any, query: str, callbacks: Any = None) -> Any:
        vars(self)["asked"] = query
        await asyncio.sleep(0)
        return self.compress_documents(documents, vars(self)["asked"], callbacks)


class ReturnsMappings(Compressor):
    breaks: ClassVar = ("results_are_documents",)

    def copied(self, item: Document, score: float) -> Any:
        return super().copied(item, score).model_dump()


class Untraced(Compressor):
    breaks: ClassVar = ("callbacks_see_the_call",)

    def compress_documents(self, documents: Any, query: str, callbacks: Any = None) -> Any:
        return self.rank(documents, query)


class NeverEnds(Compressor):
    breaks: ClassVar = ("callbacks_are_balanced", "callbacks_are_balanced_after_an_error")

    def compress_documents(self, documents: Any, query: str, callbacks: Any = None) -> Any:
        CallbackManager.configure(callbacks).on_retriever_start(None, query, name="open")
        return self.rank(documents, query)


class MixesUpNodeTasks(Postprocessor):
    breaks: ClassVar = ("tasks_get_their_own_answers",)

    async def _apostprocess_nodes(self, nodes: Any, query_bundle: Any = None) -> Any:
        vars(self)["asked"] = query_bundle
        await asyncio.sleep(0)
        return self._postprocess_nodes(nodes, vars(self)["asked"])


class NodesHalfWhenAsync(Postprocessor):
    breaks: ClassVar = ("async_equals_sync",)

    async def _apostprocess_nodes(self, nodes: Any, query_bundle: Any = None) -> Any:
        found = self._postprocess_nodes(nodes, query_bundle)
        return [NodeWithScore(node=item.node, score=item.score / 2) for item in found]


class ReturnsDocuments(Postprocessor):
    breaks: ClassVar = ("results_are_nodes",)

    def copied(self, item: NodeWithScore, score: float) -> NodeWithScore:
        made = super().copied(item, score)
        made.node = TextDocument(text=made.node.text, id_=made.node.node_id, metadata=made.node.metadata)
        return made


class DropsEmbeddings(Postprocessor):
    breaks: ClassVar = ("embeddings_are_kept",)

    def copied(self, item: NodeWithScore, score: float) -> NodeWithScore:
        made = super().copied(item, score)
        made.node.embedding = None
        return made


class DropsRelationships(Postprocessor):
    breaks: ClassVar = ("relationships_are_kept",)

    def copied(self, item: NodeWithScore, score: float) -> NodeWithScore:
        made = super().copied(item, score)
        made.node.relationships = {}
        return made


class ShowsTheScoreToTheLLM(Postprocessor):
    breaks: ClassVar = ("nodes_read_as_before", "hashes_are_kept")

    def copied(self, item: NodeWithScore, score: float) -> NodeWithScore:
        made = super().copied(item, score)
        made.node.metadata["score"] = score
        return made


class NeedsScores(Postprocessor):
    breaks: ClassVar = ("nodes_without_a_score",)

    def copied(self, item: NodeWithScore, score: float) -> NodeWithScore:
        assert item.score is not None
        return super().copied(item, score)


class ReadsQueryTextOnly(Postprocessor):
    breaks: ClassVar = ("a_query_bundle_is_as_good_as_its_text",)

    def postprocess_nodes(self, nodes: Any, query_bundle: Any = None, query_str: Any = None) -> Any:
        return self._postprocess_nodes(
            nodes, QueryBundle(query_str or "nothing") if query_bundle or query_str else None
        )


class InventsAQuery(Postprocessor):
    breaks: ClassVar = ("a_missing_query_is_refused",)

    def _postprocess_nodes(self, nodes: Any, query_bundle: Any = None) -> Any:
        return super()._postprocess_nodes(nodes, query_bundle or QueryBundle("anything"))


class SendsNoEvents(Postprocessor):
    breaks: ClassVar = ("events_tell_of_the_call",)

    def _postprocess_nodes(self, nodes: Any, query_bundle: Any = None) -> Any:
        if query_bundle is None:
            raise ValueError
        return self.rank(nodes, query_bundle.query_str)


class LeavesEventsOpen(Postprocessor):
    breaks: ClassVar = (
        "events_are_balanced",
        "events_are_balanced_without_nodes",
        "events_are_balanced_after_an_error",
        "events_are_balanced_without_a_query",
    )

    def _postprocess_nodes(self, nodes: Any, query_bundle: Any = None) -> Any:
        dispatcher.event(ReRankStartEvent(query=None, nodes=nodes, top_n=0, model_name="overlap"))
        return super()._postprocess_nodes(nodes, query_bundle)


def metadata(item: Any) -> dict[str, Any]:
    found: dict[str, Any] = item.metadata if isinstance(item, Document) else item.node.metadata
    return found


# A reranker that fails both of these, too, does not run at all: then its failures say nothing of its fault.
CONTROLS = ("one_item", "nothing_gives_nothing")


def _tests_of(suite: type, name: str, reranker: type, breaks: Sequence[str]) -> dict[str, Any]:
    """Put a faulty reranker under the tests that name its fault and the controls; all would take a minute."""
    kept = {f"test_{test}" for test in (*breaks, *CONTROLS)}
    others = {test for test in dir(suite) if test.startswith("test_")} - kept
    return {**dict.fromkeys(others), name: reranker, "breaks": breaks, "__module__": __name__}


def _classes() -> dict[str, type]:
    """One test class for each fault and each reranker that can have it."""
    made: dict[str, type] = {}
    frameworks = (
        (CompressorTests, "compressor_class", Compressor, Postprocessor),
        (PostprocessorTests, "postprocessor_class", Postprocessor, Compressor),
    )
    for fault in [kind for kind in globals().values() if isinstance(kind, type) and "breaks" in vars(kind)]:
        for suite, name, base, other in frameworks:
            if not issubclass(fault, Ranking) or issubclass(fault, other):
                continue
            mixed = (fault,) if issubclass(fault, base) else (fault, base)
            faulty = type(fault.__name__, mixed, {"__module__": __name__})
            title = f"Test{fault.__name__}In{base.__name__}"
            made[title] = type(title, (suite,), _tests_of(suite, name, faulty, fault.breaks))
    return made


globals().update(_classes())
