"""Offline re-ranking of a whole corpus with Ray Data: part by part, with progress, resumable."""

from __future__ import annotations

from flag_rerank_integrations.corpus.rows import RankRows
from flag_rerank_integrations.corpus.run import CorpusSummary, rerank_corpus

__all__ = ["CorpusSummary", "RankRows", "rerank_corpus"]
