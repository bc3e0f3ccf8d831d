"""Turns measured series into rows, and rows into a table and a JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.floor import Work
from benchmarks.measure import Series
from benchmarks.systems import BASELINE, OURS

__all__ = ["Row", "ratios", "row_of", "table", "write"]


@dataclass(slots=True)
class Row:
    """One system on one workload with one model."""

    model: str
    workload: str
    system: str
    settings: str = ""
    texts: str = ""
    """Hash of the texts."""
    failure: str = ""
    """Why there is no result."""
    pairs: int = 0
    real_tokens: int = 0
    runs: int = 0
    seconds: float | None = None
    """Median."""
    all_seconds: tuple[float, ...] = ()
    pairs_per_second: float | None = None
    cpu_seconds: float | None = None
    """Median over runs, of all threads."""
    floor_share: float | None = None
    """Least time possible, by a plain forward pass's operations, over the time taken."""
    cpu_floor_share: float | None = None
    """The same in CPU seconds: steadier than `floor_share` on a machine that is busy with other things."""
    reduced_floor_share: float | None = None
    """`floor_share` by the fewer operations that scoring one token of the last layer needs."""
    gemm_gflops: float | None = None
    computed_per_real_token: float | None = None
    score_difference: float | None = None
    """Largest, to plain transformers pair by pair; of logits."""
    peak_memory: int | None = None
    """Bytes, of a process of its own."""
    scoring_memory: int | None = None
    """Its growth from when the model was loaded to the peak while scoring."""


def row_of(row: Row, series: Series, reference: Sequence[float], operations: Work) -> Row:
    """Fill in a row from what was measured.

    Args:
        row: Names the model, the workload and the system; has pairs and tokens.
        series: All runs.
        reference: The scores to compare with; empty where there are none.
        operations: Of the workload.
    """
    row.failure = series.failure
    if series.failure or not series.wall:
        return row
    row.runs = len(series.wall)
    row.seconds = median(series.wall)
    row.all_seconds = tuple(round(seconds, 5) for seconds in series.wall)
    row.pairs_per_second = row.pairs / row.seconds
    row.cpu_seconds = median(series.cpu)
    row.floor_share = series.floor_share(operations.full)
    row.cpu_floor_share = series.cpu_floor_share(operations.full)
    row.reduced_floor_share = series.floor_share(operations.reduced)
    row.gemm_gflops = median(rate.wall for rate in series.gemm) / 1e9
    row.computed_per_real_token = series.computed_tokens / row.real_tokens if series.computed_tokens else None
    if reference:
        row.score_difference = max(
            abs(score - expected) for score, expected in zip(series.scores, reference, strict=True)
        )
    return row


_COLUMNS: Final = (
    ("pairs/s", "pairs_per_second", "{:.1f}"),
    ("CPU s", "cpu_seconds", "{:.3g}"),
    ("floor", "floor_share", "{:.2f}"),
    ("CPU floor", "cpu_floor_share", "{:.2f}"),
    ("computed/real", "computed_per_real_token", "{:.2f}"),
    ("peak MiB", "peak_memory", "{:.0f}"),
    ("score diff.", "score_difference", "{:.1e}"),
    ("runs", "runs", "{}"),
)


def table(rows: Iterable[Row]) -> str:
    """Write rows as a Markdown table; systems without a result follow with their reasons."""
    rows = list(rows)
    head = ["model", "pairs", "system", *(title for title, _, _ in _COLUMNS)]
    lines = [head] + [_cells(row) for row in rows if not row.failure]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    reasons = dict.fromkeys(f"- {row.system}, {row.model}: {row.failure}" for row in rows if row.failure)
    if reasons:
        text += ["", "Without a result:", *reasons]
    return "\n".join(text)


def _cells(row: Row) -> list[str]:
    values = [getattr(row, name) for _, name, _ in _COLUMNS]
    shown = [
        value / 2**20 if name == "peak_memory" and value else value
        for value, (_, name, _) in zip(values, _COLUMNS, strict=True)
    ]
    texts = ["-" if value is None else form.format(value) for value, (_, _, form) in zip(shown, _COLUMNS, strict=True)]
    return [row.model, row.workload, row.system, *texts]


def ratios(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Say, for each model and workload, how much faster this package is than each peer, the best of them named."""
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if not row.failure:
            groups.setdefault((row.model, row.workload), {})[row.system] = row
    found = []
    for (model, workload), group in groups.items():
        ours = group.pop(OURS, None)
        if ours is None or not ours.seconds:
            continue
        times = {name: round((row.seconds or 0) / ours.seconds, 2) for name, row in group.items()}
        cpu = {name: round((row.cpu_seconds or 0) / (ours.cpu_seconds or 1), 2) for name, row in group.items()}
        peers = [name for name in times if name != BASELINE]
        best = min(peers, key=lambda name: times[name], default=None)
        found.append(
            {"model": model, "workload": workload, "best_peer": best, "times_faster": times, "times_less_cpu": cpu}
        )
    return found


def write(path: Path, head: dict[str, Any], rows: Iterable[Row]) -> None:
    """Write everything as JSON; called after every workload, so that an interrupted run keeps what it has."""
    rows = list(rows)
    result = {**head, "ratios": ratios(rows), "rows": [asdict(row) for row in rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
