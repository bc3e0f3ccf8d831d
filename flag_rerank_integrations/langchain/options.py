"""The fields that every LangChain wrapper has: the options of a Reranker, or a live one to share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    WithJsonSchema,
    model_serializer,
)
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import Self

from flag_rerank_integrations.config import DEFAULT_MAX_LENGTH, DEFAULT_MODEL
from flag_rerank_integrations.errors import ConfigError
from flag_rerank_integrations.plain_numbers import plain_number
from flag_rerank_integrations.ray_options import RayOptions
from flag_rerank_integrations.remote.config import RemoteConfig
from flag_rerank_integrations.reranker_source import Config, RerankerLike, RerankerSource
from flag_rerank_integrations.wrapping import (
    FIXED,
    check_settable,
    check_storable,
    dropped_by,
    plain_error,
    settle_fields,
    stored_fields,
    stored_remote,
)

__all__ = ["RerankerOptions", "check_limit"]


class RerankerOptions(BaseModel):
    """Options of a `Reranker` as pydantic fields, and the reranker that they describe.

    The fields from `model` to `timeout` are those of `RerankConfig`, which documents and checks
    them when an object is made. They are fixed from then on; `model_copy(update=...)` gives a
    changed copy. No model is loaded before it is needed.

    Args:
        reranker: A live `Reranker` or `RemoteReranker`, or anything with those of its methods that
            are used here, to share instead of loading a model. It excludes the other options: they show what its own
            config says. It is never closed from here; JSON holds its config, not the object.
        remote: The options of a `RemoteReranker` (a `RemoteConfig`, or a mapping such as
            {"url": ...}), to ask a server instead of loading a model; its API key is not part of JSON.

    Raises:
        ConfigError: An option has a wrong value, or stands beside `reranker`. Where pydantic
            itself parses (`model_validate`, `model_validate_json`) its ValidationError carries
            the same message. Both are a ValueError.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, validate_assignment=True
    )

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
    remote: Annotated[Any, PlainSerializer(stored_remote), WithJsonSchema({"type": ["object", "null"]})] = None
    reranker: Annotated[Any, SkipJsonSchema()] = Field(default=None, exclude=True)

    _verbs: ClassVar[tuple[str, ...]] = ("rank", "arank")  # what a shared reranker must have
    _source: RerankerSource = PrivateAttr()

    if not TYPE_CHECKING:  # type checkers read each wrapper's own, which names what it takes

        def __init__(self, /, **data: Any) -> None:  # noqa: ANN401 - each field checks its own value
            config, settled = settle_fields(data, self._verbs)
            try:
                super().__init__(**settled)
            except ValidationError as error:
                raise plain_error(error) from None
            self._source = RerankerSource(config, self.reranker)

    @property
    def config(self) -> Config | None:
        """The options as one validated object; None where a shared reranker does not tell."""
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
        """Free the model that was loaded here; a shared reranker is left alone. The next use loads again."""
        self._source.close()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, with changes that are validated; it shares the model unless an option changes.

        Args:
            update: New values by field.
            deep: Whether to copy values too.

        Raises:
            ConfigError: A value is wrong.
        """
        changes = dict(update or {})
        if changes.keys() & FIXED:
            settings = {name: getattr(self, name) for name in self.model_fields_set}
            dropped = dropped_by(changes)
            kept = {name: value for name, value in settings.items() if name not in dropped}
            return type(self)(**{**kept, **changes})
        copied = super().model_copy(deep=deep)
        for name, value in changes.items():
            setattr(copied, name, value)
        return copied

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

    def __eq__(self, other: object) -> bool:
        """Compare settings, not loaded models: a pickled copy equals its original."""
        if type(self) is not type(other) or not isinstance(other, RerankerOptions):
            return NotImplemented
        ours, theirs = ({**vars(settings), "reranker": None} for settings in (self, other))
        same_source = self.config == other.config if self.config is not None else self.reranker == other.reranker
        return ours == theirs and same_source

    __hash__ = None  # type: ignore[assignment]  # mutable, as every model of pydantic's

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave a default `max_length` unsaid: read back as a number, it would no longer adapt to the model."""
        check_storable(self._source)
        settings: dict[str, Any] = handler(self)
        if self.max_length is DEFAULT_MAX_LENGTH:
            settings.pop("max_length", None)
        return stored_fields(settings)

    def model_dump(self, **options: Any) -> dict[str, Any]:  # noqa: ANN401 - pydantic's own
        """Return the settings as a mapping, without live objects and keys.

        Raises:
            ConfigError: A shared reranker does not tell what could be loaded in its place.
        """
        check_storable(self._source)
        return super().model_dump(**options)

    def model_dump_json(self, **options: Any) -> str:  # noqa: ANN401 - pydantic's own
        """Return the settings as JSON; see `model_dump`."""
        check_storable(self._source)
        return super().model_dump_json(**options)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Show what differs from the defaults: two dozen fields say little at a glance."""
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value != field.default:
                yield name, value

    def _facts(self) -> dict[str, Any]:
        """Say in a trace what scores here."""
        if self.config is None:
            return {"reranker": self._source.model_name}
        if isinstance(self.config, RemoteConfig):
            return {"reranker": "RemoteReranker", "url": self.config.url, "model": self.config.model}
        return {"model": self.model, "device": self.device}

    def _reranker(self) -> RerankerLike:
        return self._source.get()

    async def _areranker(self) -> RerankerLike:
        return await self._source.aget()


def check_limit(name: str, value: Any) -> int | None:  # noqa: ANN401 - whatever a caller gives
    """Return a limit on the number of documents, as an int, if it is one.

    Raises:
        ConfigError: It is neither None nor a whole number of at least 0.
    """
    value = plain_number(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        msg = f"{name} must be a whole number of at least 0, or None for no limit, not {value!r}."
        raise ConfigError(msg)
    limit: int | None = value
    return limit
