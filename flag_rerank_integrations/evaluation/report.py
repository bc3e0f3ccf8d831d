"""An evaluation in words, for people, and its single queries as a table, for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from flag_rerank_integrations.errors import ConfigError, InputError
from flag_rerank_integrations.evaluation.results import Comparison, Evaluation

__all__ = ["as_text", "check_table_name", "table_of", "verdict_on", "write_per_query"]

_SMALLEST_P: Final = 0.001
_TABLES: Final = (".csv", ".json")


def as_text(evaluation: Evaluation) -> str:
    """Return the report that people read."""
    return "\n".join(_lines(evaluation))


def table_of(comparisons: Sequence[Comparison], first_stage: str = "first stage") -> Iterator[str]:
    """Yield a table of measures, its header first.

    Args:
        comparisons: One for each row.
        first_stage: What to call the ranking before.
    """
    name_width = max(len("measure"), *(len(line.measure) for line in comparisons))
    before_width = max(6, len(first_stage))
    interval = "95% interval"
    yield f"{'measure':<{name_width}}  {first_stage:>{before_width}}  re-ranked  difference  {interval:<18}       p"
    for line in comparisons:
        ends = f"{line.low:+.3f} to {line.high:+.3f}"
        yield (
            f"{line.measure:<{name_width}}  {line.before:>{before_width}.3f}  {line.after:>9.3f}  "
            f"{line.difference:>+10.3f}  {ends:<18}  {_p_value(line.p_value):>6}"
        )


def verdict_on(comparison: Comparison, first_stage: str = "the first stage", queries: str = "queries") -> str:
    """Say what a measure's interval allows to say."""
    if comparison.low > 0:
        return f"By {comparison.measure}, re-ranking is better than {first_stage} alone on these {queries}."
    if comparison.high < 0:
        return f"By {comparison.measure}, re-ranking is WORSE than {first_stage} alone on these {queries}."
    return f"By {comparison.measure}, the difference could be chance alone on these {queries}."


def check_table_name(path: str | Path) -> None:
    """Refuse a name that does not tell what kind of table to write.

    Raises:
        ConfigError: It ends neither in .csv nor in .json.
    """
    if Path(path).suffix.lower() not in _TABLES:
        msg = f"The table of single queries is written to a file that ends in {' or '.join(_TABLES)}, not to {path}."
        raise ConfigError(msg)


def write_per_query(path: str | Path, evaluation: Evaluation) -> None:
    """Write the measures of every query, before and after.

    Args:
        path: Where to: a .json file takes an array of objects (query_id, query, before, after), a .csv file a
            row for each query with two columns for each measure.
        evaluation: What was found.

    Raises:
        ConfigError: The name ends in neither.
        InputError: The file cannot be written.
    """
    check_table_name(path)
    rows = [asdict(values) for values in evaluation.per_query]
    is_csv = Path(path).suffix.lower() == ".csv"
    text = _as_csv(rows) if is_csv else json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    try:
        # A lone surrogate, which JSON can hold and UTF-8 cannot, shows as an escape.
        Path(path).write_bytes(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror or error}"
        raise InputError(msg) from error


def _lines(evaluation: Evaluation) -> Iterator[str]:
    yield (
        f"{evaluation.name}: {evaluation.queries:,} {'query' if evaluation.queries == 1 else 'queries'}, "
        f"the first {evaluation.top_k} passages of each re-ranked ({evaluation.pairs:,} pairs)"
    )
    yield from (f"  {line}" for line in table_of(evaluation.comparisons))
    yield f"  {verdict_on(evaluation.comparisons[0])}"
    if evaluation.pairs:
        yield f"  Scoring took {evaluation.seconds:.1f} s: {evaluation.pairs / evaluation.seconds:,.1f} pairs/s"
    if evaluation.truncated_pairs:
        share = evaluation.truncated_pairs / evaluation.pairs
        yield f"  {share:.1%} of the passages were too long to be read to the end"
    yield from (f"  Note: {note}" for note in evaluation.notes)


def _as_csv(rows: Sequence[dict[str, Any]]) -> str:
    measures = list(rows[0]["before"])
    columns = [f"{measure} {stage}" for measure in measures for stage in ("first stage", "re-ranked")]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["query_id", "query", *columns])
    for row in rows:
        values = [row[stage][measure] for measure in measures for stage in ("before", "after")]
        writer.writerow([row["query_id"], row["query"], *values])
    return text.getvalue()


def _p_value(value: float) -> str:
    return f"<{_SMALLEST_P}" if value < _SMALLEST_P else f"{value:.3f}"
