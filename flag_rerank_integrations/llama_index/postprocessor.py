"""FlagRerankPostprocessor: LlamaIndex nodes in, copies out in the order of a cross-encoder's scores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

from llama_index.core.schema import NodeWithScore, QueryBundle
from typing_extensions import Unpack

from flag_rerank_integrations.llama_index.events import dispatcher, reranking
from flag_rerank_integrations.llama_index.nodes import checked_call, copy_node, write_hidden
from flag_rerank_integrations.llama_index.options import RETRIEVAL_SCORE, PostprocessorFields, PostprocessorOptions
from flag_rerank_integrations.results import RankedPassage

__all__ = ["FlagRerankPostprocessor"]

logger: Final = logging.getLogger(__name__)


class FlagRerankPostprocessor(PostprocessorOptions):
    """Orders retrieved nodes by the score of a cross-encoder, on the device you choose.

    The nodes that come out are copies with their ids and relationships; those that went in stay as
    they are. `NodeWithScore.score` is the model's score as a plain float, and ties keep their
    order. Nodes without any text (an image alone) cannot be scored: they come last, with the
    score None, and a `score_threshold` leaves them out.

    Every option of `RerankConfig` is a field of the same name, meaning and default. These and
    `reranker` are fixed once the postprocessor is made. The model loads at first use, or by
    `warm_up`. Pickling and deep copies carry the settings only and load a model of their own.

    Args:
        reranker: A live `Reranker` or `RemoteReranker`, or anything with its `rank` and `arank`, to
            share one loaded model; no model option may stand beside it. It is never closed from here.
        remote: The options of a `RemoteReranker` (a `RemoteConfig`, or a mapping such as
            {"url": ...}), to ask a server instead of loading a model; its API key is not part of JSON.
        top_n: Most nodes to return; None is all.
        score_threshold: Least score of a node that is returned; it applies before `top_n`.
        score_key: A metadata key under which to write the score as well, hidden from the text of
            embedding models and LLMs. None by default: metadata is part of a node's hash.
        metadata_mode: Which metadata the model reads with a node's text.
        keep_retrieval_score: Whether to keep the retriever's score, under the metadata key
            "retrieval_score", hidden from the text of embedding models and LLMs.

    Raises:
        ConfigError: A field has a wrong value, or model options stand beside `reranker`.
        pydantic.ValidationError: There is no such field.
    """

    if TYPE_CHECKING:  # more forms of an option are taken than its field keeps

        def __init__(self, **fields: Unpack[PostprocessorFields]) -> None: ...

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex stores this component."""
        return "FlagRerankPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query, items = checked_call(nodes, query_bundle)
        with self._reranking(query, items) as output:
            texts = self._texts(items)
            ranking: Sequence[RankedPassage] = []
            if texts:
                ranking = self._source.get().rank(query, list(texts.values()), self.top_n, self.score_threshold)
            output.extend(self._ordered(items, list(texts), ranking))
        return output

    @dispatcher.span  # LlamaIndex itself does so only with the method above
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query, items = checked_call(nodes, query_bundle)
        with self._reranking(query, items) as output:
            texts = self._texts(items)
            ranking: Sequence[RankedPassage] = []
            if texts:
                reranker = await self._source.aget()
                ranking = await reranker.arank(query, list(texts.values()), self.top_n, self.score_threshold)
            output.extend(self._ordered(items, list(texts), ranking))
        return output

    def _texts(self, items: Sequence[NodeWithScore]) -> dict[int, str]:
        """Return what the model shall read of each node, by position; nodes without text are left out."""
        texts = {position: item.node.get_content(self.metadata_mode) for position, item in enumerate(items)}
        blank = [position for position, text in texts.items() if isinstance(text, str) and not text.strip()]
        for position in blank:
            del texts[position]
        if blank:
            logger.warning("%d of %d nodes have no text: they rank last, without a score.", len(blank), len(items))
        return texts

    def _ordered(
        self, items: Sequence[NodeWithScore], positions: Sequence[int], ranking: Sequence[RankedPassage]
    ) -> list[NodeWithScore]:
        """Return copies in the ranking's order, then those that have no text.

        Args:
            items: The nodes as they came.
            positions: Which of them the ranking is about, in its numbering.
            ranking: The ranking, best first.
        """
        ordered = [self._copied(items[positions[place.index]], float(place.score)) for place in ranking]
        if self.score_threshold is None:
            blank = set(range(len(items))).difference(positions)
            ordered += [self._copied(items[position], None) for position in sorted(blank)]
        return ordered[: self.top_n]

    def _copied(self, item: NodeWithScore, score: float | None) -> NodeWithScore:
        node = copy_node(item.node)
        if self.keep_retrieval_score:
            # Other rerankers leave numpy's numbers here, and metadata goes into JSON.
            write_hidden(node, RETRIEVAL_SCORE, None if item.score is None else float(item.score))
        if self.score_key is not None and score is not None:
            write_hidden(node, self.score_key, score)
        return item.model_copy(update={"node": node, "score": score})

    def _reranking(self, query: str, items: list[NodeWithScore]) -> AbstractContextManager[list[NodeWithScore]]:
        return reranking(self.callback_manager, query, items, self.top_n, self._source.model_name)
