"""A bench's result in words, for people, as plain JSON values, for programs, and as files."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, Final

from flag_rerank_integrations.bench.measurement import Round, Row, quantile
from flag_rerank_integrations.bench.quality import Quality
from flag_rerank_integrations.bench.recommendation import chosen_options
from flag_rerank_integrations.bench.run import BenchResult
from flag_rerank_integrations.bench.wording import counted, short
from flag_rerank_integrations.devices import available_cores
from flag_rerank_integrations.errors import InputError

__all__ = ["FILES", "as_dict", "as_text", "write"]

FILES: Final = ("results.json", "recommended.json")
_MEBIBYTE: Final = 1 << 20
_REASON_WIDTH: Final = 100
_DISTRIBUTIONS: Final = ("flag-rerank-integrations", "torch", "transformers", "onnxruntime")
_RIGHT: Final = 4
"""The first columns hold names and stand to the left, the others numbers."""


def as_text(result: BenchResult) -> str:
    """Return the report that people read."""
    sections = [_setting(result), _table(result), _quality(result.qualities), _failures(result.rows), _verdict(result)]
    return "\n\n".join("\n".join(lines) for lines in map(list, sections) if lines)


def as_dict(result: BenchResult) -> dict[str, Any]:
    """Return everything measured as JSON values; times in seconds, memory in bytes, null where unknown."""
    recommended = result.recommendation
    return {
        "model": result.config.model,
        "options": chosen_options(result.config),
        "machine": _machine(),
        "texts": {
            "source": result.workload.source,
            "pairs": result.workload.pairs,
            "requests": len(result.workload.requests),
            "passages": result.workload.passages,
        },
        "limits": asdict(result.limits),
        "rule": asdict(result.rule),
        "interrupted": result.interrupted,
        "measured": result.rounds,
        "planned": result.planned,
        "settings": [_row_dict(row) for row in result.rows],
        "quality": [asdict(quality) for quality in result.qualities],
        "recommended": None if recommended is None else {"reason": recommended.reason, "options": recommended.options},
    }


def write(result: BenchResult, directory: Path) -> list[Path]:
    """Write `results.json`, and `recommended.json` where there is a recommendation.

    Args:
        result: What was measured.
        directory: Made where it does not exist.

    Returns:
        The files written.

    Raises:
        InputError: They cannot be written.
    """
    recommended = result.recommendation
    contents = [as_dict(result), None if recommended is None else recommended.options]
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in zip(FILES, contents, strict=True):
            path = directory / name
            path.unlink(missing_ok=True)  # of an earlier run, which would be taken for this one's
            if content is not None:
                text = json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False)
                path.write_text(text + "\n", encoding="utf-8")
                written.append(path)
    except OSError as error:
        msg = f"cannot write to {directory}: {error.strerror or error}"
        raise InputError(msg) from error
    return written


def _setting(result: BenchResult) -> Iterator[str]:
    work, limits = result.workload, result.limits
    yield f"Model    {result.config.model}"
    yield (
        f"Texts    {work.source}: {work.pairs} pairs, in {counted(len(work.requests), 'request')} of "
        f"{counted(work.passages, 'passage')}"
    )
    machine = _machine()
    yield f"Machine  {machine['cores']} cores, {machine['system']}, Python {machine['python']}"
    rounds = counted(limits.repeats, "round")
    yield f"Measured {limits.seconds_per_point:g} s a setting in {rounds}, each in a process of its own"


def _table(result: BenchResult) -> Iterator[str]:
    """Yield a line for each setting that has figures."""
    rows = [row for row in result.rows if row.measured]
    if not rows:
        return
    recommended = result.recommendation
    ndcg = {each.max_length: each.ndcg for each in result.qualities}
    optional = {"GPU MiB": any(row.device_memory is not None for row in rows), "nDCG@10": bool(ndcg)}
    lines = [_cells(row, ndcg.get(row.setting.max_length)) for row in rows]
    names = [name for name in lines[0] if optional.get(name, True)]
    widths = {name: max(len(name), *(len(line[name]) for line in lines)) for name in names}
    yield "  " + "  ".join(_aligned(name, widths[name], place) for place, name in enumerate(names))
    for row, line in zip(rows, lines, strict=True):
        mark = "*" if recommended is not None and row.setting == recommended.setting else " "
        yield f"{mark} " + "  ".join(_aligned(line[name], widths[name], place) for place, name in enumerate(names))
    yield "  cut: share of the passages not read to their end; MiB: most that all processes held at one time"


def _cells(row: Row, ndcg: float | None) -> dict[str, str]:
    """Return a row of the table by column."""
    setting = row.setting
    return {
        "max_length": str(setting.max_length),
        "budget": str(setting.max_batch_tokens),
        "dtype": setting.dtype,
        "device": setting.device_name,
        "pairs/s": short(row.pairs_per_second),
        "slowest-fastest": f"{short(row.slowest)}-{short(row.fastest)}",
        "tokens/s": f"{row.tokens_per_second:,.0f}",
        "request ms": short(row.latency * 1000),
        "p95 ms": short(row.latency_p95 * 1000),
        "cut": f"{row.truncated_share:.1%}",
        "MiB": _mebibytes(row.host_memory),
        "GPU MiB": _mebibytes(row.device_memory),
        "nDCG@10": "" if ndcg is None else f"{ndcg:.3f}",
    }


def _quality(qualities: Sequence[Quality]) -> Iterator[str]:
    """Yield a line for each length that was judged, the longest first."""
    for each in qualities:
        if each.ndcg is None or each.first_stage is None:
            yield f"max_length {each.max_length}: no nDCG@10, {_one_line(each.failure or 'not measured')}"
            continue
        line = f"max_length {each.max_length}: nDCG@10 {each.ndcg:.3f}, first stage {each.first_stage:.3f}"
        gain = "" if each.gain is None else f", difference {each.gain}"
        cost = "" if each.cost is None else f"; to the longest {each.cost}"
        yield f"{line}{gain}{cost}"
    if qualities:
        count = max(each.queries for each in qualities)
        yield f"  judged queries: {count}; in parentheses 95% intervals of a paired bootstrap over them"


def _failures(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row.failure is not None:
            yield f"FAILED   {row.setting}: {_one_line(row.failure)}"
        elif not row.stable:
            backoffs = sum(each.oom_backoffs for each in row.rounds)
            restarts = sum(each.worker_restarts for each in row.rounds)
            yield f"UNSTEADY {row.setting}: out of memory {backoffs} times, {restarts} worker restarts"


def _verdict(result: BenchResult) -> Iterator[str]:
    recommended = result.recommendation
    if result.interrupted:
        yield f"Interrupted: {result.rounds} of {result.planned} measurements were finished and are kept."
    if recommended is None:
        yield "Nothing could be measured, so nothing is recommended."
        return
    yield f"Recommended: {recommended.setting}"
    yield f"  {recommended.reason}"
    yield f"  {json.dumps(recommended.options, ensure_ascii=False)}"


def _row_dict(row: Row) -> dict[str, Any]:
    """Return one setting's figures, with those of each round."""
    figures: dict[str, Any] = {
        "pairs_per_second": row.pairs_per_second,
        "slowest_round": row.slowest,
        "fastest_round": row.fastest,
        "tokens_per_second": row.tokens_per_second,
        "latency": row.latency,
        "latency_p95": row.latency_p95,
        "truncated_share": row.truncated_share,
    }
    known = {name: None if math.isnan(value) else value for name, value in figures.items()}
    rounds = [_round_dict(each) for each in row.rounds]
    memory = {"host_memory": row.host_memory, "device_memory": row.device_memory}
    return {**asdict(row.setting), "failure": row.failure, **known, **memory, "rounds": rounds}


def _round_dict(measured: Round) -> dict[str, Any]:
    """Return a round's figures; of the single requests, of which there may be thousands, a summary."""
    latencies = measured.latencies
    summary = {"requests": len(latencies), "median": median(latencies), "p95": quantile(latencies, 0.95)}
    return {**asdict(measured), "latencies": summary, "pairs_per_second": measured.pairs_per_second}


def _machine() -> dict[str, Any]:
    """Return what a reader needs to judge the figures, and nothing that names the machine."""
    versions = {name: _version(name) for name in _DISTRIBUTIONS}
    system = f"{platform.system()} {platform.machine()}"
    return {"cores": available_cores(), "system": system, "python": platform.python_version(), "versions": versions}


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _aligned(text: str, width: int, place: int) -> str:
    return f"{text:<{width}}" if place < _RIGHT else f"{text:>{width}}"


def _mebibytes(size: int | None) -> str:
    return "?" if size is None else f"{size / _MEBIBYTE:,.0f}"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _REASON_WIDTH else line[: _REASON_WIDTH - 3] + "..."
