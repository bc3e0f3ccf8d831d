"""Tests that any reranker for LangChain or LlamaIndex can be held to: subclass one, and pytest runs them.

    DocumentCompressorConformance   for a LangChain `BaseDocumentCompressor`
    NodePostprocessorConformance    for a LlamaIndex `BaseNodePostprocessor`

Nothing in them knows this package's rerankers. Importing this package imports neither framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    import pytest
except ModuleNotFoundError as _error:
    if _error.name != "pytest":
        raise
    from flag_rerank_integrations.errors import MissingExtraError as _MissingExtraError

    _msg = "pytest is not installed. Install it with: pip install 'flag-rerank-integrations[testing]'"
    raise _MissingExtraError(_msg, name="pytest") from _error

if TYPE_CHECKING:
    from flag_rerank_integrations.testing.langchain import DocumentCompressorConformance
    from flag_rerank_integrations.testing.llama_index import NodePostprocessorConformance

__all__ = ["DocumentCompressorConformance", "NodePostprocessorConformance"]

_HOMES = {"DocumentCompressorConformance": "langchain", "NodePostprocessorConformance": "llama_index"}

# A failing assert shows the two values it compared only in modules that pytest was told of before they are imported.
for _name in (
    "concurrency",
    "conformance",
    "copies",
    "langchain",
    "llama_index",
    "llama_index_events",
    "llama_index_nodes",
    "passages",
    "rankings",
    "storing",
):
    pytest.register_assert_rewrite(f"{__name__}.{_name}")


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute may be of any type
    """Import the module that owns a class, and its framework, when the class is first used."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, whether or not they have been used yet."""
    return sorted({*globals(), *__all__})
