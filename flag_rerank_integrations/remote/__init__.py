"""Reranking on a server that someone else runs, through its `/rerank` endpoint.

In one line each::

    RemoteReranker   the methods of a `Reranker`, answered by the server
    RemoteConfig     its options

Importing this package imports no HTTP client; a reranker needs the extra `remote` once it starts.
"""

from __future__ import annotations

from flag_rerank_integrations.remote.config import RemoteConfig
from flag_rerank_integrations.remote.reranker import RemoteReranker

__all__ = ["RemoteConfig", "RemoteReranker"]
