"""LangChain: re-ranking as a document compressor, as a retriever and as a cross-encoder.

- `FlagRerankCompressor` is a `BaseDocumentCompressor`, for `ContextualCompressionRetriever` and LCEL.
- `FlagRerankRetriever` is a `BaseRetriever` that re-ranks what another retriever finds.
- `FlagCrossEncoder` is a `BaseCrossEncoder`, for code that wants scores.

All three take the options of `Reranker`, or `reranker=` to share a live one.
Importing this package imports neither torch nor another framework; a model is
loaded at first use, or by `warm_up()`.
"""

from __future__ import annotations

try:
    import langchain_core as _langchain_core
except ModuleNotFoundError as _error:
    if _error.name != "langchain_core":
        raise
    from flag_rerank_integrations.errors import MissingExtraError as _MissingExtraError

    _msg = "LangChain is not installed: pip install 'flag-rerank-integrations[langchain]'"
    raise _MissingExtraError(_msg, name=_error.name) from _error

from flag_rerank_integrations.langchain.compressor import FlagRerankCompressor, RerankInput
from flag_rerank_integrations.langchain.cross_encoder import FlagCrossEncoder
from flag_rerank_integrations.langchain.retriever import FlagRerankRetriever

__all__ = ["FlagCrossEncoder", "FlagRerankCompressor", "FlagRerankRetriever", "RerankInput"]

del _langchain_core
