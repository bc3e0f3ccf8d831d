"""What a Ray Data actor does with a part: read it, rank it, write it, and report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.corpus.parts import Part, read_lines, read_table, write_lines, write_table
from flag_rerank_integrations.corpus.rows import ERROR, RANKING, RankRows
from flag_rerank_integrations.corpus.storage import Place
from flag_rerank_integrations.errors import WorkerDied

__all__ = ["Job", "RankParts"]


_MOST_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Job:
    """What all parts of a run have in common."""

    files: tuple[Place, ...]
    output: Place
    config: RerankConfig
    ranking: Mapping[str, Any]
    """The options of `RankRows` besides the config."""


class RankParts:
    """Ranks parts, for `Dataset.map_batches(..., batch_format="pyarrow")`.

    It takes a column `part` of parts as JSON and gives a column `report` of JSON objects: how many
    rows and pairs a part had and how many rows failed, or the exception that ended it, as text.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._ranker: RankRows | None = None

    def __call__(self, batch: Any) -> Any:  # noqa: ANN401 - pyarrow.Table in and out
        """Rank the parts of a batch."""
        import pyarrow as pa

        parts = [Part(**json.loads(text)) for text in batch["part"].to_pylist()]
        return pa.table({"report": [json.dumps(self._report(part)) for part in parts]})

    def _report(self, part: Part) -> dict[str, Any]:
        """Rank a part unless it has ended too many workers: Ray itself would try it for ever."""
        marks = [self._job.output / f".{part.output}.try{number}" for number in range(_MOST_TRIES)]
        mark = next((mark for mark in marks if mark.size is None), None)
        if mark is None:
            message = f"{_MOST_TRIES} workers have ended over {part.output} of {self._job.files[part.file].path!r}."
            return {"error": {"type": WorkerDied.__name__, "message": message, "trace": ""}, "part": part.output}
        mark.write(lambda stream: stream.write(b""))
        report = self._ranked(part)
        for mark in marks:
            mark.delete()
        return report

    def _ranked(self, part: Part) -> dict[str, Any]:
        from flag_rerank_integrations.executors._child import described

        try:
            # Loaded here and not in the constructor, whose exceptions Ray would answer with retries.
            if self._ranker is None:
                self._ranker = RankRows(self._job.config, **self._job.ranking)
            return self._rank_lines(part) if part.row_group is None else self._rank_table(part)
        except Exception as error:  # noqa: BLE001 - the driver is told, as text: not every exception can be sent
            return {"error": described(error), "part": part.output}

    def _rank_lines(self, part: Part) -> dict[str, Any]:
        assert self._ranker is not None  # noqa: S101 - made by the caller
        parsed = [_parsed(line) for line in read_lines(self._job.files[part.file], part)]
        outcomes = iter(self._ranker.rank([row for row, error in parsed if error is None]))
        rows = []
        for row, error in parsed:
            ranking, reason = next(outcomes) if error is None else (None, error)
            rows.append({**row, RANKING: ranking, ERROR: reason})
        write_lines(self._job.output / part.output, rows)
        return _counts([row[ERROR] for row in rows])

    def _rank_table(self, part: Part) -> dict[str, Any]:
        assert self._ranker is not None  # noqa: S101 - made by the caller
        table = self._ranker(read_table(self._job.files[part.file], part))
        write_table(self._job.output / part.output, table)
        return _counts(table[ERROR].to_pylist())


def _parsed(line: str) -> tuple[dict[str, Any], str | None]:
    """Return the row on a line, or the line itself and what is wrong with it."""
    try:
        row = json.loads(line)
    except ValueError as error:
        return {"line": line}, f"the line is not JSON: {error}"
    if not isinstance(row, dict):
        return {"line": line}, f"the line holds {type(row).__name__}, not an object"
    return row, None


def _counts(errors: list[str | None]) -> dict[str, Any]:
    return {"rows": len(errors), "failed": sum(error is not None for error in errors)}
