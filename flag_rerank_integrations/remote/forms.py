"""What servers call `/rerank`: how each wants to be asked, and where its answer has the scores.

Read off the servers' own code: Text Embeddings Inference 1.x (router/src/http), infinity-emb 0.0.78,
vLLM 0.11.1 to 0.33 (entrypoints/pooling), and Cohere's client 7.3 (v2). `jina` is the form that
many gateways copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flag_rerank_integrations.errors import ConfigError

__all__ = ["FORMS", "VLLM_SCORE", "Form", "Question"]


@dataclass(frozen=True, slots=True)
class Question:
    """What one request asks."""

    query: str
    passages: Sequence[str]
    model: str | None
    logits: bool | None
    """Whether to ask for logits; None says nothing of it."""
    truncate: bool
    """Whether the server may cut what is too long for its model, or must refuse it."""


@dataclass(frozen=True, slots=True)
class Form:
    """How one kind of server is asked."""

    name: str
    path: str
    """Where the endpoint is, below the address of the server."""
    body: Callable[[Question], dict[str, Any]]
    entries_key: str | None
    """Where the answer has its list of scores; None where it is that list."""
    score_key: str
    most_passages: int
    """Passages of one request, where the server does not tell its limit."""
    gives_logits: bool
    """Whether it can be asked for logits; a server that cannot has a scale of its own."""
    refuses_long: bool
    """Whether it can be asked to refuse what is too long."""
    needs_model: bool

    def check(self, model: str | None, normalize: bool | None, long_passages: str) -> None:  # noqa: FBT001 - an option
        """Refuse options that this kind of server cannot follow.

        Raises:
            ConfigError: It cannot; the message says what it can.
        """
        if self.needs_model and model is None:
            msg = f"form={self.name!r} needs a model: the name that the server has for it."
            raise ConfigError(msg)
        if normalize is False and not self.gives_logits:
            msg = (
                f"normalize=False asks for logits, which a server of form={self.name!r} cannot be asked for. "
                f"normalize=True takes its scores and insists on 0 to 1; normalize=None takes them as they are."
            )
            raise ConfigError(msg)
        if long_passages == "error" and not self.refuses_long:
            msg = (
                f"long_passages='error' is not possible with form={self.name!r}: "
                f"there is no way to ask such a server to refuse what is too long. Use 'truncate'."
            )
            raise ConfigError(msg)


def _tei(question: Question) -> dict[str, Any]:
    return {
        "query": question.query,
        "texts": list(question.passages),
        "truncate": question.truncate,
        "return_text": False,
        **({} if question.logits is None else {"raw_scores": question.logits}),
    }


def _infinity(question: Question) -> dict[str, Any]:
    return {
        "query": question.query,
        "documents": list(question.passages),
        "return_documents": False,
        **_model(question),
        **({} if question.logits is None else {"raw_scores": question.logits}),
    }


def _vllm(question: Question) -> dict[str, Any]:
    return {"query": question.query, "documents": list(question.passages), **_vllm_options(question)}


def _vllm_score(question: Question) -> dict[str, Any]:
    return {"text_1": question.query, "text_2": list(question.passages), **_vllm_options(question)}


def _vllm_options(question: Question) -> dict[str, Any]:
    return {
        **_model(question),
        # -1 is the model's own length; without it, what is too long is refused.
        **({"truncate_prompt_tokens": -1} if question.truncate else {}),
        **({} if question.logits is None else {"use_activation": not question.logits}),
    }


def _jina(question: Question) -> dict[str, Any]:
    return {**_cohere(question), "return_documents": False}


def _cohere(question: Question) -> dict[str, Any]:
    documents = list(question.passages)
    return {**_model(question), "query": question.query, "documents": documents, "top_n": len(documents)}


def _model(question: Question) -> dict[str, Any]:
    return {} if question.model is None else {"model": question.model}


_RESULTS: Final[dict[str, Any]] = {"entries_key": "results", "score_key": "relevance_score"}
_LOGITS: Final[dict[str, Any]] = {"gives_logits": True, "needs_model": False}
_OWN_SCALE: Final[dict[str, Any]] = {"gives_logits": False, "refuses_long": False, "needs_model": True}

FORMS: Final[Mapping[str, Form]] = {
    form.name: form
    for form in (
        Form("tei", "/rerank", _tei, None, "score", 32, refuses_long=True, **_LOGITS),
        Form("infinity", "/rerank", _infinity, most_passages=2048, refuses_long=False, **_RESULTS, **_LOGITS),
        Form("vllm", "/rerank", _vllm, most_passages=1000, refuses_long=True, **_RESULTS, **_LOGITS),
        Form("jina", "/v1/rerank", _jina, most_passages=1000, **_RESULTS, **_OWN_SCALE),
        Form("cohere", "/v2/rerank", _cohere, most_passages=1000, **_RESULTS, **_OWN_SCALE),
    )
}
VLLM_SCORE: Final = Form("vllm", "/score", _vllm_score, "data", "score", 1000, refuses_long=True, **_LOGITS)
"""vLLM's other endpoint, for an address that ends in it."""
