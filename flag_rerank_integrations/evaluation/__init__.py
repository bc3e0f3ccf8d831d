"""Evaluation on judged data: re-rank a first stage's run, and tell by how much it became better, if at all.

Readers for BEIR folders, TREC judgements and TREC runs; measures by `ir_measures`; intervals and
p-values by a paired bootstrap. Importing this package imports neither torch nor a framework.
"""

from __future__ import annotations

from flag_rerank_integrations.evaluation.bootstrap import Difference, paired_difference
from flag_rerank_integrations.evaluation.evaluator import DEFAULT_TOP_K, RanksMany, default_measures, evaluate
from flag_rerank_integrations.evaluation.first_stage import bm25_run
from flag_rerank_integrations.evaluation.judged_set import JudgedSet
from flag_rerank_integrations.evaluation.measures import values_by_query
from flag_rerank_integrations.evaluation.qrels import Qrels, read_qrels
from flag_rerank_integrations.evaluation.results import Comparison, Evaluation, QueryValues
from flag_rerank_integrations.evaluation.runs import Run, ScoredPassage, read_run, write_run
from flag_rerank_integrations.evaluation.texts import read_texts

__all__ = [
    "DEFAULT_TOP_K",
    "Comparison",
    "Difference",
    "Evaluation",
    "JudgedSet",
    "Qrels",
    "QueryValues",
    "RanksMany",
    "Run",
    "ScoredPassage",
    "bm25_run",
    "default_measures",
    "evaluate",
    "paired_difference",
    "read_qrels",
    "read_run",
    "read_texts",
    "values_by_query",
    "write_run",
]
