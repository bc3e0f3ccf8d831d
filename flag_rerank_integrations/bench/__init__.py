"""Measures this machine with texts of the user's own: speed, latency and memory over lengths, budgets, types, devices.

    from flag_rerank_integrations.bench import Grid, Workload, run

    result = run(config, Grid(max_lengths=(128, 256)), Workload.sample(requests))
    print(as_text(result))

Each setting is measured in processes of its own, in several rounds, and the settings take turns; see `run`.
"""

from __future__ import annotations

from flag_rerank_integrations.bench.grid import Grid, Setting
from flag_rerank_integrations.bench.judging import Judging
from flag_rerank_integrations.bench.measurement import Round, Row
from flag_rerank_integrations.bench.recommendation import Recommendation, Rule
from flag_rerank_integrations.bench.report import as_dict, as_text, write
from flag_rerank_integrations.bench.run import BenchResult, Limits, run
from flag_rerank_integrations.bench.workload import Workload, paired

__all__ = [
    "BenchResult",
    "Grid",
    "Judging",
    "Limits",
    "Recommendation",
    "Round",
    "Row",
    "Rule",
    "Setting",
    "Workload",
    "as_dict",
    "as_text",
    "paired",
    "run",
    "write",
]
