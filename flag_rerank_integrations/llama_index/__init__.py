"""Re-ranking as a LlamaIndex node postprocessor.

For example::

    postprocessor = FlagRerankPostprocessor(model="BAAI/bge-reranker-v2-m3", device="cuda:1", top_n=5)
    engine = index.as_query_engine(similarity_top_k=50, node_postprocessors=[postprocessor])

Importing this package imports neither torch nor LangChain: the model, and all it needs, loads at first use.
"""

from __future__ import annotations

try:
    import llama_index.core  # noqa: F401 - a missing extra is told here, before the modules below need it
except ModuleNotFoundError as _error:
    if not (_error.name or "").startswith("llama_index"):
        raise
    from flag_rerank_integrations.errors import MissingExtraError as _MissingExtraError

    _msg = "LlamaIndex is not installed. Install it with: pip install 'flag-rerank-integrations[llama-index]'"
    raise _MissingExtraError(_msg, name=_error.name) from _error

from flag_rerank_integrations.llama_index.postprocessor import FlagRerankPostprocessor

__all__ = ["FlagRerankPostprocessor"]
