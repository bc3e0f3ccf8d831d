"""The fields that every LangChain wrapper has: the options of a Reranker, or a live one to share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    SkipValidation,
    ValidationError,
    model_serializer,
)
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import Self

from flag_rerank_integrations.config import DEFAULT_MAX_LENGTH, DEFAULT_MODEL, RerankConfig
from flag_rerank_integrations.errors import ConfigError
from flag_rerank_integrations.langchain.source import RerankerLike, RerankerSource, check_reranker

__all__ = ["RerankerOptions", "check_limit", "plain_error"]

_OPTIONS: Final = frozenset(option.name for option in dataclasses.fields(RerankConfig))


class RerankerOptions(BaseModel):
    """Options of a `Reranker` as pydantic fields, and the reranker that they describe.

    The fields from `model` to `timeout` are those of `RerankConfig`, which documents and checks
    them when an object is made. They are fixed from then on; `model_copy(update=...)` gives a
    changed copy. No model is loaded before it is needed.

    Args:
        reranker: A live `Reranker`, or anything with its methods, to share instead of loading a
            model. It excludes the other options: they show what its own config says. It is
            never closed from here, and never part of JSON.

    Raises:
        ConfigError: An option has a wrong value, or stands beside `reranker`. Where pydantic
            itself parses (`model_validate`, `model_validate_json`) its ValidationError carries
            the same message. Both are a ValueError.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, validate_assignment=True)

    model: str = DEFAULT_MODEL
    device: str | tuple[str, ...] = "auto"
    dtype: str = "auto"
    max_length: int = DEFAULT_MAX_LENGTH
    query_max_length: int | None = None
    max_batch_tokens: int | str = "auto"
    normalize: bool = False
    instruction: str | None = None
    prompt: str | None = None
    family: str = "auto"
    backend: str = "auto"
    quantization: str | None = None
    cutoff_layer: int | None = None
    compress_ratio: int = 1
    compress_layers: tuple[int, ...] = (8,)
    long_passages: str = "truncate"
    revision: str | None = None
    cache_dir: str | None = None
    local_files_only: bool = False
    trust_remote_code: bool = False
    special_tokens: str = "plain"
    score_cache: int = 0
    progress: bool = False
    timeout: float | None = None
    reranker: Annotated[RerankerLike | None, SkipValidation, SkipJsonSchema()] = Field(default=None, exclude=True)

    _source: RerankerSource = PrivateAttr()

    if not TYPE_CHECKING:  # type checkers read the fields, which say more than **data

        def __init__(self, /, **data: Any) -> None:  # noqa: ANN401 - each field checks its own value
            data = _settle(data)
            try:
                super().__init__(**data)
            except ValidationError as error:
                raise plain_error(error) from None

    def model_post_init(self, context: Any, /) -> None:  # noqa: ANN401, ARG002 - pydantic's signature
        """Describe the model to load; nothing is loaded yet."""
        self._source = RerankerSource(self._config_of_fields())

    @property
    def config(self) -> RerankConfig:
        """The options as one validated object; of a shared reranker, its own."""
        return _config_of(self.reranker) or self._config_of_fields()

    def warm_up(self) -> None:
        """Load the model now instead of at first use; safe to call from many threads, and twice."""
        start = getattr(self._reranker(), "start", None)
        if callable(start):
            start()

    async def awarm_up(self) -> None:
        """Load the model now, off the event loop."""
        import asyncio

        await self._areranker()
        await asyncio.to_thread(self.warm_up)

    def close(self) -> None:
        """Free the model that was loaded here; a shared reranker is left alone. The next use loads again."""
        self._source.close()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, with changes that are validated; it shares the model unless an option changes."""
        changes = dict(update or {})
        if changes.keys() & {*_OPTIONS, "reranker"}:
            settings = {name: getattr(self, name) for name in self.model_fields_set}
            dropped = _OPTIONS if changes.get("reranker") is not None else {"reranker"}
            kept = {name: value for name, value in settings.items() if name not in dropped}
            return type(self)(**{**kept, **changes})
        copied = super().model_copy(deep=deep)
        for name, value in changes.items():
            setattr(copied, name, value)
        return copied

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 - any field's value
        """Set a field; the options describe a model that may be loaded, so they stay."""
        if name in _OPTIONS or name == "reranker":
            msg = f"{name} is fixed once a {type(self).__name__} is made; use model_copy(update={{{name!r}: ...}})."
            raise ConfigError(msg)
        super().__setattr__(name, value)

    def __eq__(self, other: object) -> bool:
        """Compare settings, not loaded models: a pickled copy equals its original."""
        if type(self) is not type(other) or not isinstance(other, RerankerOptions):
            return NotImplemented
        return self.model_dump() == other.model_dump() and self.config == other.config

    __hash__ = None  # type: ignore[assignment]  # mutable, as every model of pydantic's

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave a default `max_length` unsaid: read back as a number, it would no longer adapt to the model."""
        settings: dict[str, Any] = handler(self)
        if self.max_length is DEFAULT_MAX_LENGTH:
            settings.pop("max_length", None)
        return settings

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Show what differs from the defaults: two dozen fields say little at a glance."""
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value != field.default:
                yield name, value

    def _facts(self) -> dict[str, Any]:
        """Say in a trace what scores here."""
        if self.reranker is not None and _config_of(self.reranker) is None:
            return {"reranker": type(self.reranker).__name__}
        return {"model": self.model, "device": self.device}

    def _config_of_fields(self) -> RerankConfig:
        return RerankConfig(**{name: getattr(self, name) for name in self.model_fields_set & _OPTIONS})

    def _reranker(self) -> RerankerLike:
        return self.reranker if self.reranker is not None else self._source.get()

    async def _areranker(self) -> RerankerLike:
        return self.reranker if self.reranker is not None else await self._source.aget()


def _settle(data: dict[str, Any]) -> dict[str, Any]:
    """Check the options given and return them in the forms that `RerankConfig` settles on."""
    given = {name: data[name] for name in data.keys() & _OPTIONS}
    own = {name: value for name, value in data.items() if name not in _OPTIONS}
    reranker = own.get("reranker")
    if reranker is None:
        config = RerankConfig(**given)
        if given.get("max_length") is DEFAULT_MAX_LENGTH:
            del given["max_length"]  # pydantic would turn it into a plain number
        return own | {name: getattr(config, name) for name in given}
    check_reranker(reranker)
    if given:
        msg = f"reranker= brings its own options: leave out {', '.join(sorted(given))}, or leave out reranker."
        raise ConfigError(msg)
    shared = _config_of(reranker)
    return own | (shared.to_dict() if shared is not None else {})


def _config_of(reranker: object) -> RerankConfig | None:
    """Return a shared reranker's own config; one that runs elsewhere may have none."""
    config = getattr(reranker, "config", None)
    return config if isinstance(config, RerankConfig) else None


def plain_error(error: ValidationError) -> Exception:
    """Return the ConfigError that a validator raised, rather than pydantic's account of it."""
    for detail in error.errors():
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            return cause
    return error


def check_limit(name: str, value: object) -> object:
    """Return a limit on the number of documents if it is one.

    Raises:
        ConfigError: It is neither None nor a whole number of at least 0.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        msg = f"{name} must be a whole number of at least 0, or None for no limit, not {value!r}."
        raise ConfigError(msg)
    return value
