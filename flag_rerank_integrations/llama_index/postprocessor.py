"""FlagRerankPostprocessor: LlamaIndex nodes in, copies out in the order of a cross-encoder's scores."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from pydantic import (
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_serializer,
)
from typing_extensions import Self

from flag_rerank_integrations.config import DEFAULT_MAX_LENGTH, DEFAULT_MODEL
from flag_rerank_integrations.llama_index.events import dispatcher, reranking
from flag_rerank_integrations.llama_index.nodes import checked_call, copy_node, write_hidden
from flag_rerank_integrations.ray_options import RayOptions
from flag_rerank_integrations.reranker_source import Config, RerankerLike, RerankerSource
from flag_rerank_integrations.results import RankedPassage
from flag_rerank_integrations.wrapping import (
    FIXED,
    OPTIONS,
    check_settable,
    check_storable,
    dropped_by,
    plain_error,
    settle_fields,
    stored_fields,
    stored_remote,
)

__all__ = ["FlagRerankPostprocessor"]

logger: Final = logging.getLogger(__name__)

_RETRIEVAL_SCORE: Final = "retrieval_score"
_VERBS: Final = ("rank", "arank")


class FlagRerankPostprocessor(BaseNodePostprocessor):
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

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", validate_assignment=True)

    reranker: Any = Field(default=None, exclude=True, repr=False)
    remote: Annotated[Any, PlainSerializer(stored_remote), WithJsonSchema({"type": ["object", "null"]})] = None
    top_n: StrictInt | None = Field(default=None, ge=0)
    score_threshold: float | None = Field(default=None, strict=True, allow_inf_nan=False)
    score_key: StrictStr | None = Field(default=None, min_length=1)
    metadata_mode: MetadataMode = MetadataMode.EMBED
    keep_retrieval_score: StrictBool = False

    # The options of RerankConfig, spelled out for editors and type checkers; a test compares the two.
    model: str = DEFAULT_MODEL
    device: str | tuple[str, ...] = "auto"
    dtype: str = "auto"
    max_length: int = DEFAULT_MAX_LENGTH
    query_max_length: int | None = None
    max_batch_tokens: int | str = "auto"
    normalize: bool = False
    instruction: str | None = None
    passage_instruction: str | None = None
    prompt: str | None = None
    family: str = "auto"
    backend: str = "auto"
    quantization: str | None = None
    cutoff_layer: int | None = None
    progressive: tuple[tuple[int, float], ...] | None = None
    compress_ratio: int = 1
    compress_layers: tuple[int, ...] = (8,)
    matched_head: bool = False
    long_passages: str = "truncate"
    window_overlap: float = 0.25
    window_aggregation: str = "max"
    max_windows: int = 64
    revision: str | None = None
    cache_dir: str | None = None
    local_files_only: bool = False
    allow_pickle: bool = False
    trust_remote_code: bool = False
    special_tokens: str = "plain"
    score_cache: int = 0
    progress: bool = False
    timeout: float | None = None
    ray: RayOptions | None = None

    _source: RerankerSource = PrivateAttr()

    if not TYPE_CHECKING:  # type checkers read the fields, which say more than **fields

        def __init__(self, /, **fields: Any) -> None:  # noqa: ANN401 - any field's value
            if fields.get("class_name") == self.class_name():  # `model_dump` writes it among the fields
                del fields["class_name"]
            config, settled = settle_fields(fields, _VERBS)
            try:
                super().__init__(**settled)
            except ValidationError as error:
                raise plain_error(error) from None
            self._source = RerankerSource(config, self.reranker)

    @field_validator("score_key")
    @classmethod
    def _keep_apart(cls, score_key: str | None) -> str | None:
        if score_key == _RETRIEVAL_SCORE:
            msg = "this key is for the retriever's score"
            raise ValueError(msg)
        return score_key

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex stores this component."""
        return "FlagRerankPostprocessor"

    @property
    def config(self) -> Config | None:
        """The model options as one validated object; None where a shared reranker does not tell."""
        return self._source.config

    def warm_up(self) -> RerankerLike:
        """Load the model now instead of at first use; return the live reranker, to share it.

        Raises:
            RerankError: The model cannot be loaded; see the subclass.
        """
        return self._source.warm_up()

    async def awarm_up(self) -> RerankerLike:
        """Load the model now, off the event loop; see `warm_up`."""
        return await self._source.awarm_up()

    def close(self) -> None:
        """Free the model that was loaded here, never a shared one; the next use loads again."""
        self._source.close()

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
            write_hidden(node, _RETRIEVAL_SCORE, item.score)
        if self.score_key is not None and score is not None:
            write_hidden(node, self.score_key, score)
        return item.model_copy(update={"node": node, "score": score})

    def _reranking(self, query: str, items: list[NodeWithScore]) -> AbstractContextManager[list[NodeWithScore]]:
        return reranking(self.callback_manager, query, items, self.top_n, self._source.model_name)

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401 - pydantic's own arguments
        """Return the fields but for live objects and keys, as plain JSON values.

        Raises:
            ConfigError: A shared reranker does not tell what could be loaded in its place.
        """
        check_storable(self._source)
        return super().to_dict(**{"mode": "json", **kwargs})

    @model_serializer(mode="wrap")
    def custom_model_dump(
        self,
        handler: SerializerFunctionWrapHandler,
        info: SerializationInfo,  # noqa: ARG002 - the base class has it
    ) -> dict[str, Any]:
        """Say what the base class says, and of a server nothing that only a model here has."""
        check_storable(self._source)
        return {**stored_fields(handler(self)), "class_name": self.class_name()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], **kwargs: Any) -> Self:  # noqa: ANN401 - any field's value
        """Build a postprocessor from what `to_dict` returns; `kwargs` take precedence."""
        fields = {**data, **kwargs}
        # `to_dict` says the default too, yet it must go on giving way to a model that allows less.
        if fields.get("max_length") == DEFAULT_MAX_LENGTH:
            del fields["max_length"]
        return super().from_dict(fields)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, with changes that are validated; it shares the model unless `deep` or an option changes."""
        changes = dict(update or {})
        if not deep and FIXED.isdisjoint(changes):
            copied = super().model_copy()
            for name, value in changes.items():
                setattr(copied, name, value)
            return copied
        return type(self)(**{**copy.deepcopy(self._settings(dropped_by(changes))), **changes})

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a postprocessor with the same settings and a model of its own."""
        return self.model_copy(deep=True)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings only."""
        return _restore, (type(self), self._settings())

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 - any field's value
        """Set a field; the options describe a model that may be loaded, so they stay.

        Raises:
            ConfigError: The value is wrong, or the field describes the model.
        """
        check_settable(self, name)
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise plain_error(error) from None

    def _settings(self, left_out: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Return the fields that were set, without live objects."""
        if not left_out >= OPTIONS:
            check_storable(self._source)
        fields = type(self).model_fields
        names = self.model_fields_set - left_out
        return {name: getattr(self, name) for name in names if not fields[name].exclude}


def _restore(kind: type[FlagRerankPostprocessor], settings: dict[str, Any]) -> FlagRerankPostprocessor:
    """Unpickle."""
    return kind(**settings)
