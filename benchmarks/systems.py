"""What is measured: this package and its peers behind one verb, `score(requests)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from benchmarks.models import BenchModel
from benchmarks.reference import OneByOne
from benchmarks.workloads import MAX_LENGTH, Request

if TYPE_CHECKING:
    from flag_rerank_integrations import Reranker

__all__ = ["BASELINE", "DEFAULT_SYSTEMS", "OURS", "SYSTEMS", "Ours", "System", "Unsupported", "load", "versions"]

OURS: Final = "this package"
BASELINE: Final = "one by one"
# The reference allocates vocabulary-sized logits for every position of a batch: at its default of 128 pairs
# the toy's 256,000-token vocabulary takes tens of gigabytes. Eight pairs fit into any machine.
_LLM_BATCH: Final = 8
_PLAIN_BATCH: Final = 32
_TUNED_BATCH: Final = 8


class Unsupported(Exception):  # noqa: N818 - a reason to print, not a fault
    """A system cannot run a model; the message says why."""


class System(Protocol):
    """One loaded system."""

    settings: str
    """What was set; everything else is the system's default."""

    def score(self, requests: Sequence[Request]) -> list[float]:
        """Return the logits of all passages of all requests, in order."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


class Ours:
    """This package's Reranker."""

    settings = f"max_length={MAX_LENGTH}"

    def __init__(self, model: BenchModel, **options: Any) -> None:  # noqa: ANN401 - any of the Reranker's
        from flag_rerank_integrations import Reranker

        name = "quickstart" if model.name == "quickstart" else model.path
        self.reranker: Reranker = Reranker(name, device="cpu", **{"max_length": MAX_LENGTH, **options})

    def score(self, requests: Sequence[Request]) -> list[float]:
        """Rank, and put the scores back into the order of the passages."""
        scores: list[float] = []
        for ranking in self.reranker.rank_many(requests):
            scores.extend(ranked.score for ranked in sorted(ranking, key=lambda ranked: ranked.index))
        return scores

    def close(self) -> None:
        """Close the Reranker."""
        self.reranker.close()


class _FlagEmbedding:
    """FlagEmbedding's FlagReranker, or its FlagLLMReranker for a causal model."""

    def __init__(self, model: BenchModel, **options: int) -> None:
        _refuse(model, onnx="does not run ONNX files")
        from FlagEmbedding import FlagLLMReranker, FlagReranker

        if model.kind == "causal":
            options = {"batch_size": _LLM_BATCH, **options}
        self.settings = _settings(f"max_length={MAX_LENGTH}", options)
        make = FlagLLMReranker if model.kind == "causal" else FlagReranker
        self._model: Any = make(model.path, devices="cpu", max_length=MAX_LENGTH, **options)

    def score(self, requests: Sequence[Request]) -> list[float]:
        scores = self._model.compute_score(_pairs(requests))
        return [float(score) for score in (scores if isinstance(scores, list) else [scores])]

    def close(self) -> None:
        self._model = None


class _SentenceTransformers:
    """sentence-transformers' CrossEncoder."""

    def __init__(self, model: BenchModel, **options: int) -> None:
        causal = "has no layout for this prompt"
        _refuse(model, causal=causal, onnx="runs ONNX files through optimum, which is not part of this comparison")
        import torch
        from sentence_transformers import CrossEncoder

        self._model: Any = CrossEncoder(model.path, device="cpu", max_length=MAX_LENGTH)
        self._options = {"activation_fn": torch.nn.Identity(), "show_progress_bar": False, **options}
        self.settings = _settings(f"max_length={MAX_LENGTH}, activation_fn=Identity", options)

    def score(self, requests: Sequence[Request]) -> list[float]:
        scores = self._model.predict(_pairs(requests), **self._options)
        return [float(score) for score in scores]

    def close(self) -> None:
        self._model = None


class _Rerankers:
    """The `rerankers` library, one query at a time, as its interface has it."""

    def __init__(self, model: BenchModel, **options: int) -> None:
        _refuse(model, onnx="runs ONNX files only of models that it downloads")
        from rerankers import Reranker as Make

        kind = "llm-layerwise" if model.kind == "causal" else "cross-encoder"
        self._model: Any = Make(model.path, model_type=kind, device="cpu", dtype="fp32", verbose=0, **options)
        self.settings = _settings("dtype=float32; the tokenizer's max_length", options)
        if self._model is None:
            msg = "rerankers.Reranker returned None"
            raise Unsupported(msg)

    def score(self, requests: Sequence[Request]) -> list[float]:
        scores: list[float] = []
        for query, passages in requests:
            ranked = self._model.rank(query, passages, doc_ids=list(range(len(passages)))).results
            scores.extend(result.score for result in sorted(ranked, key=lambda result: result.document.doc_id))
        return scores

    def close(self) -> None:
        self._model = None


class _OnnxRuntime:
    """onnxruntime as it is commonly used: batches of 32 pairs in the order given, padded to the longest."""

    settings = f"padded batches of {_PLAIN_BATCH}"

    def __init__(self, model: BenchModel) -> None:
        _refuse(model, causal="causal models are not exported for this comparison")
        from benchmarks.onnx_graph import PlainSession

        self._session = PlainSession(model, _PLAIN_BATCH)
        self.computed_tokens = 0

    def score(self, requests: Sequence[Request]) -> list[float]:
        scores = self._session.score(_pairs(requests))
        self.computed_tokens = self._session.computed_tokens
        return scores

    def close(self) -> None:
        self._session.close()


SYSTEMS: Final[dict[str, tuple[Callable[[BenchModel], System], str]]] = {
    OURS: (Ours, "flag-rerank-integrations"),
    "FlagEmbedding": (_FlagEmbedding, "FlagEmbedding"),
    "sentence-transformers": (_SentenceTransformers, "sentence-transformers"),
    "rerankers": (_Rerankers, "rerankers"),
    "onnxruntime": (_OnnxRuntime, "onnxruntime"),
    BASELINE: (OneByOne, "transformers"),
    # A user's first step of tuning on a CPU: batches that stay in the caches.
    "FlagEmbedding, batch 8": (partial(_FlagEmbedding, batch_size=_TUNED_BATCH), "FlagEmbedding"),
    "sentence-transformers, batch 8": (
        partial(_SentenceTransformers, batch_size=_TUNED_BATCH),
        "sentence-transformers",
    ),
    "rerankers, batch 8": (partial(_Rerankers, batch_size=_TUNED_BATCH), "rerankers"),
}
"""How to load each system, and the distribution it comes from."""
DEFAULT_SYSTEMS: Final = tuple(name for name in SYSTEMS if "batch" not in name)


def load(name: str, model: BenchModel) -> System:
    """Load a model into a system.

    Raises:
        Unsupported: It is not installed, or cannot run this model; the message says why.
    """
    make, _ = SYSTEMS[name]
    try:
        return make(model)
    except Unsupported:
        raise
    except Exception as error:
        raise Unsupported(said(error)) from error


def said(error: BaseException) -> str:
    """Return an error's type and first line, without this machine's paths."""
    line = next(iter(str(error).strip().splitlines()), "no message")
    root = Path(__file__).resolve().parent.parent
    for path, name in ((root, "."), (root.parent, ".."), (Path.home(), "~")):
        line = line.replace(f"{path}/", f"{name}/")
    return f"{type(error).__name__}: {line[:200]}"


def versions() -> dict[str, str]:
    """Return the versions of the systems and of what they run on; a missing one is left out."""
    names = (*(distribution for _, distribution in SYSTEMS.values()), "torch", "tokenizers", "numpy")
    found = {name: _version(name) for name in names}
    return {name: text for name, text in found.items() if text}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _refuse(model: BenchModel, **reasons: str) -> None:
    """Say why a system is not run on a kind of model."""
    if model.kind in reasons:
        raise Unsupported(reasons[model.kind])


def _settings(text: str, options: Mapping[str, int]) -> str:
    return ", ".join([text, *(f"{name}={value}" for name, value in options.items())])


def _pairs(requests: Sequence[Request]) -> list[tuple[str, str]]:
    return [(query, passage) for query, passages in requests for passage in passages]
