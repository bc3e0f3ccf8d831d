"""What is known of a server before the first question: its form, its endpoint, its limits."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Final

from flag_rerank_integrations.errors import ConfigError
from flag_rerank_integrations.remote.config import RemoteConfig
from flag_rerank_integrations.remote.forms import FORMS, VLLM_SCORE, Form
from flag_rerank_integrations.remote.transport import Transport

__all__ = ["Endpoint", "discover"]

_OK: Final = 200
_NO_ACCESS: Final = frozenset({401, 403})
_OLDEST_VLLM: Final = (0, 11, 1)
"""The first version that can be asked for logits as later ones are: older ones ignore it in silence."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how to ask."""

    url: str
    form: Form
    most_passages: int


@dataclass(frozen=True, slots=True)
class _Address:
    """An address taken apart."""

    root: str
    """The server's own, without a version."""
    below: str
    """Where endpoints are: the root, or a version below it."""
    endpoint: str | None
    """The endpoint, where the address names it."""

    @classmethod
    def of(cls, url: str) -> _Address:
        named = re.fullmatch(r"(https?://.+)/(?:rerank|score)", url)
        below = named[1] if named else url
        return cls(re.sub(r"/v\d$", "", below), below, url if named else None)

    def endpoint_of(self, form: Form) -> str:
        """Return the endpoint; a version in the address stands for the one in the form's path."""
        if self.endpoint is not None:
            return self.endpoint
        return f"{self.below}/rerank" if self.below != self.root else f"{self.root}{form.path}"


async def discover(transport: Transport, config: RemoteConfig) -> Endpoint:
    """Find out how to ask a server.

    Raises:
        ConfigError: It is none of the forms known, serves no reranker, or cannot follow an option.
        WorkerError: It cannot be reached.
    """
    address = _Address.of(config.url)
    form = FORMS[config.form] if config.form in FORMS else await _form_of(transport, address)
    if form.name == "vllm" and address.endpoint is not None and address.endpoint.endswith("/score"):
        form = VLLM_SCORE
    form.check(config.model, config.normalize, config.long_passages)
    if form.name == "vllm" and config.normalize is not None:
        await _check_vllm(transport, address)
    if form.name == "tei":
        form = await _with_limits(transport, address, form)
    most = form.most_passages
    wanted = config.max_passages if isinstance(config.max_passages, int) else most
    return Endpoint(address.endpoint_of(form), form, min(wanted, most) if form.name == "tei" else wanted)


async def _form_of(transport: Transport, address: _Address) -> Form:
    """Ask a server what it is, by what only that kind of server tells of itself."""
    closed = False
    for url, is_it in (
        (f"{address.root}/info", _is_tei),
        (f"{address.root}/v1/models", _is_vllm),
        (f"{address.below}/models", _is_infinity),
    ):
        status, answer = await transport.get(url)
        closed = closed or status in _NO_ACCESS
        if status == _OK and is_it(answer):
            return FORMS[is_it.__name__.removeprefix("_is_")]
    hint = "it wants a valid API key" if closed else "it does not tell"
    msg = f"Cannot find out what {address.root} is: {hint}. Give form: one of {', '.join(map(repr, FORMS))}."
    raise ConfigError(msg)


def _is_tei(answer: object) -> bool:
    return isinstance(answer, dict) and "max_client_batch_size" in answer and "model_type" in answer


def _is_vllm(answer: object) -> bool:
    return any(model.get("owned_by") == "vllm" for model in _models(answer))


def _is_infinity(answer: object) -> bool:
    return any(model.get("owned_by") == "infinity" for model in _models(answer))


def _models(answer: object) -> list[dict[str, Any]]:
    data = answer.get("data") if isinstance(answer, dict) else None
    return [model for model in data if isinstance(model, dict)] if isinstance(data, list) else []


async def _with_limits(transport: Transport, address: _Address, form: Form) -> Form:
    """Take over what Text Embeddings Inference tells of itself; behind a gateway it may tell nothing.

    Raises:
        ConfigError: It serves a model that is no reranker.
    """
    status, info = await transport.get(f"{address.root}/info")
    if status != _OK or not _is_tei(info):
        return form
    kind = info["model_type"]
    kinds = [str(name).lower() for name in kind] if isinstance(kind, dict) else [str(kind).lower()]
    if "reranker" not in kinds:
        msg = f"{address.root} serves {info.get('model_id')!r}, which is no reranker but: {', '.join(kinds)}."
        raise ConfigError(msg)
    most = info["max_client_batch_size"]
    return replace(form, most_passages=most) if isinstance(most, int) and most > 0 else form


async def _check_vllm(transport: Transport, address: _Address) -> None:
    """Refuse a vLLM that would answer a question for logits with something else."""
    status, answer = await transport.get(f"{address.root}/version")
    version = answer.get("version") if status == _OK and isinstance(answer, dict) else None
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", version) if isinstance(version, str) else None
    if numbers and tuple(map(int, numbers.groups())) < _OLDEST_VLLM:
        needed = ".".join(map(str, _OLDEST_VLLM))
        msg = f"{address.root} is vLLM {version}, which cannot be asked for logits as {needed} and later can. "
        msg += "Update it, or take its scores as they are with normalize=None."
        raise ConfigError(msg)
