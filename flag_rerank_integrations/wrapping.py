"""What the framework wrappers share: how the options of a reranker, or a shared one, are fields."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.errors import ConfigError
from flag_rerank_integrations.remote.config import RemoteConfig
from flag_rerank_integrations.reranker_source import Config, RerankerSource

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = [
    "FIXED",
    "OPTIONS",
    "check_reranker",
    "check_settable",
    "check_storable",
    "copied_metadata",
    "dropped_by",
    "plain_error",
    "settle_fields",
    "stored_fields",
    "stored_remote",
]

OPTIONS: Final = frozenset(option.name for option in dataclasses.fields(RerankConfig))
"""Names of the fields that describe a model."""

FIXED: Final = OPTIONS | {"reranker", "remote"}
"""Names of the fields that stay as they are once a wrapper is made: its model may be loaded."""

_UNKNOWN_FIELD: Final = frozenset({"extra_forbidden", "no_such_attribute"})


def check_reranker(reranker: object, verbs: Sequence[str]) -> None:
    """Refuse an object that cannot do what it is shared for.

    Args:
        reranker: The object.
        verbs: Names of the methods of `RerankerLike` that it must have.

    Raises:
        ConfigError: It lacks one; the message says which.
    """
    missing = [verb for verb in verbs if not callable(getattr(reranker, verb, None))]
    if missing or isinstance(reranker, type):
        lack = f"it has no {' and no '.join(missing)}" if missing else "it is a class, not an instance"
        msg = f"reranker must be a live Reranker or work like one, not {reranker!r}: {lack}."
        raise ConfigError(msg)


def settle_fields(fields: Mapping[str, Any], verbs: Sequence[str]) -> tuple[Config | None, dict[str, Any]]:
    """Validate the options among some fields, or take over those of a shared reranker.

    Args:
        fields: What a wrapper was made with.
        verbs: The methods that it calls on a shared reranker.

    Returns:
        The config, None where a shared reranker has none; and all fields to set, options as JSON values.

    Raises:
        ConfigError: An option is wrong, options stand beside `remote` or `reranker`, or `reranker` lacks a verb.
    """
    own = {name: value for name, value in fields.items() if name not in OPTIONS}
    given = {name: value for name, value in fields.items() if name in OPTIONS}
    reranker, remote = own.get("reranker"), own.get("remote")
    if remote is not None:
        _refuse_beside("remote", [*given, *(["reranker"] if reranker is not None else [])])
        remote_config = remote if isinstance(remote, RemoteConfig) else RemoteConfig.from_dict(remote)
        return remote_config, own | {"remote": remote_config}
    if reranker is None:
        config = RerankConfig(**given)
        # `to_dict` leaves out a default max_length, given or not: it must go on adapting to the model.
        return config, own | {name: value for name, value in config.to_dict().items() if name in given}
    check_reranker(reranker, verbs)
    _refuse_beside("reranker", given)
    shared = getattr(reranker, "config", None)
    if isinstance(shared, RemoteConfig):
        return shared, own | {"remote": shared}
    return (shared, own | shared.to_dict()) if isinstance(shared, RerankConfig) else (None, own)


def _refuse_beside(name: str, given: Iterable[str]) -> None:
    found = sorted(given)
    if found:
        msg = f"{name}= brings its own options: leave out {', '.join(found)}, or leave out {name}."
        raise ConfigError(msg)


def dropped_by(changes: Mapping[str, Any]) -> frozenset[str]:
    """Return the fields that do not go over into a copy with some changes: a wrapper has one source of scores."""
    if changes.get("reranker") is not None:
        return OPTIONS | {"remote"}
    if changes.get("remote") is not None:
        return OPTIONS | {"reranker"}
    return frozenset({"reranker", "remote"} if OPTIONS & changes.keys() else {"reranker"})


def stored_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields to store: where a server scores, the options of a model here say nothing."""
    unsaid = OPTIONS if fields.get("remote") is not None else frozenset[str]()
    return {name: value for name, value in fields.items() if name not in unsaid}


def stored_remote(remote: RemoteConfig | None) -> dict[str, Any] | None:
    """Return a remote config as plain JSON values, without its key."""
    return None if remote is None else remote.to_dict()


def check_storable(source: RerankerSource) -> None:
    """Refuse to store what could not be built again.

    Raises:
        ConfigError: A shared reranker does not tell what could be loaded in its place.
    """
    if source.config is None:
        msg = (
            f"The shared {source.model_name} has no RerankConfig or RemoteConfig as its `config`: "
            f"a copy would not know which model to load."
        )
        raise ConfigError(msg)


def check_settable(wrapper: object, name: str) -> None:
    """Refuse to set a field that describes the model.

    Raises:
        ConfigError: It is one of `FIXED`.
    """
    if name in FIXED:
        msg = f"{name} is fixed once a {type(wrapper).__name__} is made; use model_copy(update={{{name!r}: ...}})."
        raise ConfigError(msg)


def plain_error(error: ValidationError) -> Exception:
    """Return this package's error for a wrong value; pydantic's own stays for a field that does not exist."""
    wrong = [detail for detail in error.errors() if detail["type"] not in _UNKNOWN_FIELD]
    for detail in wrong:
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            return cause
    said = (f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}, not {detail['input']!r}" for detail in wrong)
    return ConfigError("; ".join(said)) if wrong else error


def copied_metadata(metadata: Mapping[Any, Any]) -> dict[Any, Any]:
    """Copy metadata in depth; a value that refuses to be copied (a lock, an open file) is shared as it is."""
    return {key: _copied_value(value) for key, value in metadata.items()}


def _copied_value(value: object) -> object:
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001 - a value's own __deepcopy__ may raise anything
        return value
