"""The fields of FlagRerankPostprocessor: the options of a Reranker among them, stored and copied whole."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

from llama_index.core.callbacks import CallbackManager
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode
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
from flag_rerank_integrations.option_types import WrapperOptions
from flag_rerank_integrations.plain_numbers import plain_number
from flag_rerank_integrations.ray_options import RayOptions
from flag_rerank_integrations.reranker_source import Config, RerankerLike, RerankerSource
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

__all__ = ["RETRIEVAL_SCORE", "PostprocessorFields", "PostprocessorOptions"]

RETRIEVAL_SCORE: Final = "retrieval_score"
"""The metadata key for the retriever's score."""

_VERBS: Final = ("rank", "arank")


class PostprocessorFields(WrapperOptions, total=False):
    """What `FlagRerankPostprocessor` takes, as type checkers and editors read it."""

    top_n: int | None
    score_threshold: float | None
    score_key: str | None
    metadata_mode: MetadataMode
    keep_retrieval_score: bool
    callback_manager: CallbackManager | None


class PostprocessorOptions(BaseNodePostprocessor):
    """The fields, fixed where they describe the model, and the reranker that they describe.

    They are documented with `FlagRerankPostprocessor`.
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

    if not TYPE_CHECKING:  # type checkers read the postprocessor's own, which names what it takes

        def __init__(self, /, **fields: Any) -> None:  # noqa: ANN401 - any field's value
            if fields.get("class_name") == self.class_name():  # `model_dump` writes it among the fields
                del fields["class_name"]
            if fields.get("callback_manager", "") is None:  # as the constructors of LlamaIndex's own components take it
                del fields["callback_manager"]
            config, settled = settle_fields(fields, _VERBS)
            try:
                super().__init__(**settled)
            except ValidationError as error:
                raise plain_error(error) from None
            self._source = RerankerSource(config, self.reranker)

    @field_validator("top_n", "score_threshold", mode="before")
    @classmethod
    def _plain_number(cls, value: object) -> object:
        return plain_number(value)

    @field_validator("score_key")
    @classmethod
    def _keep_apart(cls, score_key: str | None) -> str | None:
        if score_key == RETRIEVAL_SCORE:
            msg = "this key is for the retriever's score"
            raise ValueError(msg)
        return score_key

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
        """Say what the base class says, but of a server nothing that only a model here has.

        A default `max_length` stays unsaid: read back as a number, it would no longer adapt to the model.
        """
        check_storable(self._source)
        fields: dict[str, Any] = handler(self)
        if self.max_length is DEFAULT_MAX_LENGTH:
            fields.pop("max_length", None)
        return {**stored_fields(fields), "class_name": self.class_name()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], **kwargs: Any) -> Self:  # noqa: ANN401 - any field's value
        """Build a postprocessor from what `to_dict` returns; `kwargs` take precedence."""
        return super().from_dict({**data, **kwargs})

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


def _restore(kind: type[PostprocessorOptions], settings: dict[str, Any]) -> PostprocessorOptions:
    """Unpickle."""
    return kind(**settings)
