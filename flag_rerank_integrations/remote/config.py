"""One immutable description of a server to ask: validated once, JSON in and out, without its key."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from flag_rerank_integrations.errors import ConfigError
from flag_rerank_integrations.option_values import check_count, check_names, refuse
from flag_rerank_integrations.plain_numbers import plain_number
from flag_rerank_integrations.remote.forms import FORMS
from flag_rerank_integrations.remote.secret import Secret

__all__ = ["RemoteConfig"]

_LONG_PASSAGES: Final = ("truncate", "error")


@dataclass(frozen=True, slots=True)
class RemoteConfig:
    """All options of a `RemoteReranker`.

    Args:
        url: The server's address ("http://localhost:8080"), or that of the endpoint itself
            (".../rerank"; ".../score" for vLLM). It holds no password and no query string.
        form: What the server speaks: "tei", "infinity", "vllm", "jina" or "cohere"; "auto" asks
            the server, and knows the first three.
        model: The server's name for the model, where it has several or insists on one.
        api_key: Sent as a bearer token. It is part of pickles and copies, and of nothing else:
            no representation, JSON, log or error shows it.
        api_key_env: Name of the environment variable that holds the key, read at the start.
        normalize: False: scores are logits. True: sigmoids of logits, or of a server that gives
            none the scores themselves, which must then lie in 0 to 1. None: whatever the
            server returns when nothing is said.
        long_passages: "truncate" lets the server cut what does not fit its model; "error" has it
            refuse, where it can.
        max_passages: Most passages of one request; "auto" is the server's limit as far as known.
        max_concurrency: Most requests under way at once, over all callers.
        retries: How often to repeat a request that found no server, lost its connection, or was
            answered 429, 502, 503 or 504.
        timeout: Seconds one call may take, all its requests, retries and waits included; None is no limit.
        connect_timeout: Seconds to wait for a connection.
        progress: Whether to show a progress bar over the pairs of a call.

    Raises:
        ConfigError: An option has a wrong type or value, or the form cannot follow it.
    """

    url: str
    form: str = "auto"
    model: str | None = None
    api_key: Secret | str | None = dataclasses.field(default=None, repr=False)
    api_key_env: str | None = None
    normalize: bool | None = False
    long_passages: str = "truncate"
    max_passages: int | str = "auto"
    max_concurrency: int = 8
    retries: int = 3
    timeout: float | None = 60.0
    connect_timeout: float = 5.0
    progress: bool = False

    def __post_init__(self) -> None:
        """Bring loose forms into one form and refuse what cannot work."""
        object.__setattr__(self, "url", _checked_url(self.url))
        if self.api_key is not None:
            object.__setattr__(self, "api_key", Secret.of(self.api_key, "api_key"))
        if not isinstance(self.form, str) or (self.form != "auto" and self.form not in FORMS):
            refuse("form", self.form, f"one of {', '.join(map(repr, ('auto', *FORMS)))}")
        for name in ("model", "api_key_env"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value):
                refuse(name, value, "a non-empty string or None")
        if self.api_key is not None and self.api_key_env is not None:
            msg = "api_key and api_key_env both name a key: give one of them."
            raise ConfigError(msg)
        if self.normalize is not None and not isinstance(self.normalize, bool):
            refuse("normalize", self.normalize, "True, False or None")
        if not isinstance(self.progress, bool):
            refuse("progress", self.progress, "True or False")
        if self.long_passages not in _LONG_PASSAGES:
            refuse("long_passages", self.long_passages, f"one of {', '.join(map(repr, _LONG_PASSAGES))}")
        self._check_numbers()
        if self.form in FORMS:
            FORMS[self.form].check(self.model, self.normalize, self.long_passages)

    def _check_numbers(self) -> None:
        for name in ("max_passages", "max_concurrency", "retries", "timeout", "connect_timeout"):
            object.__setattr__(self, name, plain_number(getattr(self, name)))
        if self.max_passages != "auto":
            check_count("max_passages", self.max_passages, least=1)
        check_count("max_concurrency", self.max_concurrency, least=1)
        check_count("retries", self.retries, least=0)
        _check_seconds("connect_timeout", self.connect_timeout)
        if self.timeout is not None:
            _check_seconds("timeout", self.timeout)

    def replace(self, **changes: Any) -> RemoteConfig:  # noqa: ANN401 - any option's value
        """Return a copy with some options changed, validated anew.

        Raises:
            ConfigError: There is no such option, or a value is wrong.
        """
        check_names(changes, RemoteConfig)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain JSON values, without `api_key`: `api_key_env` is there to be stored."""
        names = [option.name for option in dataclasses.fields(self) if option.name != "api_key"]
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> RemoteConfig:
        """Build a config from a mapping such as `to_dict` returns.

        Args:
            options: Values by name; what is left out has its default.

        Raises:
            ConfigError: It is not a mapping, has no url, names an unknown option, or a value is wrong.
        """
        if not isinstance(options, Mapping):
            msg = f"A config is an object of options, not {type(options).__name__}."
            raise ConfigError(msg)
        check_names(options, cls)
        if "url" not in options:
            msg = "A remote config needs a url: the address of the server."
            raise ConfigError(msg)
        return cls(**options)

    def to_json(self) -> str:
        """Return the options as one JSON object, without `api_key`."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> RemoteConfig:
        """Build a config from one JSON object.

        Args:
            text: The object, as `to_json` returns it.

        Raises:
            ConfigError: The text is not JSON, or not a valid config.
        """
        try:
            options = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            msg = f"The config is not valid JSON: {error}"
            raise ConfigError(msg) from error
        return cls.from_dict(options)


def _checked_url(url: object) -> str:
    """Return an address without its last slash. One that may hold a secret is not shown in the error."""
    if not isinstance(url, str):
        refuse("url", url, "the address of a server, such as 'http://localhost:8080'")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if usable and (parts.username is not None or parts.password is not None or parts.query or parts.fragment):
        msg = "url may hold no user name, password, query string or fragment; a key goes in api_key or api_key_env."
        raise ConfigError(msg)
    if not usable or any(character.isspace() or not character.isprintable() for character in url):
        msg = "url must be the address of a server, such as 'http://localhost:8080'."
        raise ConfigError(msg)
    return url.rstrip("/")


def _check_seconds(name: str, value: object) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= threading.TIMEOUT_MAX:  # type: ignore[operator] # a number, as the line above found
        refuse(name, value, f"a positive number of seconds, at most {threading.TIMEOUT_MAX:.0f}")
