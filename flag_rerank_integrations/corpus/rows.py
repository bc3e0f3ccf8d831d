"""Ranking the rows of a corpus: each has a query and passages, and gets a ranking or the reason why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.errors import InputError
from flag_rerank_integrations.reranker import Reranker
from flag_rerank_integrations.results import RankedPassage

__all__ = ["ERROR", "RANKING", "RankRows"]

RANKING: Final = "ranking"
"""Column of the result: a list of index, score and truncated_tokens, best first; null where a row failed."""
ERROR: Final = "rank_error"
"""Column of the result: why a row was not ranked; null where it was."""

Outcome = tuple["list[dict[str, Any]] | None", "str | None"]
"""A row's ranking as plain values, or why there is none."""


class RankRows:
    """Ranks batches of rows inside a Ray actor, for `Dataset.map_batches(..., batch_format="pyarrow")`.

    Each batch comes back with the columns `ranking` and `rank_error`; any of these names are
    replaced. `index` counts a row's passages from 0.

    Args:
        config: Names the model. The device is what Ray gives the actor.
        top_n: Most passages of a ranking; None is all.
        score_threshold: Passages with a lower score are left out, before `top_n` applies.
        query_column: The column with the query, a string.
        passages_column: The column with the passages, a list of strings.

    Raises:
        RerankError: The model cannot be loaded; see the subclass.
    """

    def __init__(
        self,
        config: RerankConfig,
        top_n: int | None = None,
        score_threshold: float | None = None,
        query_column: str = "query",
        passages_column: str = "passages",
    ) -> None:
        from flag_rerank_integrations.executors.ray_actor import given_device

        self._reranker = Reranker.from_config(config.replace(device=str(given_device()), ray=None, progress=False))
        self._cut = (top_n, score_threshold)
        self._query, self._passages = query_column, passages_column

    def __call__(self, table: Any) -> Any:  # noqa: ANN401 - pyarrow.Table in and out
        """Return a batch, a `pyarrow.Table`, with its rankings.

        Raises:
            InputError: There is no such column.
        """
        import pyarrow as pa

        for name in (self._query, self._passages):
            if name not in table.column_names:
                msg = f"There is no column {name!r}; there are {', '.join(table.column_names)}."
                raise InputError(msg)
        rows = table.select([self._query, self._passages]).to_pylist()
        outcomes = self.rank(rows)
        item = pa.struct([("index", pa.int32()), ("score", pa.float64()), ("truncated_tokens", pa.int32())])
        table = table.drop_columns([name for name in (RANKING, ERROR) if name in table.column_names])
        rankings = pa.array([ranking for ranking, _ in outcomes], pa.list_(item))
        return table.append_column(RANKING, rankings).append_column(
            ERROR, pa.array([error for _, error in outcomes], pa.string())
        )

    def rank(self, rows: Sequence[dict[str, Any]]) -> list[Outcome]:
        """Rank rows, which should have a query and passages; what is wrong with one is its own affair.

        Raises:
            WorkerError: Scoring failed, which is nobody's fault among the rows.
        """
        outcomes: list[Outcome] = [(None, self._wrong(row)) for row in rows]
        good = [place for place, (_, error) in enumerate(outcomes) if error is None]
        try:
            ranked = self._rank([rows[place] for place in good])
        except InputError:  # one is too long, say: each is tried by itself
            for place in good:
                outcomes[place] = self._rank_alone(rows[place])
        else:
            for place, ranking in zip(good, ranked, strict=True):
                outcomes[place] = (ranking, None)
        return outcomes

    def _wrong(self, row: dict[str, Any]) -> str | None:
        """Return what is wrong with a row, or None."""
        query, passages = row.get(self._query), row.get(self._passages)
        if not isinstance(query, str):
            return f"{self._query} is {type(query).__name__}, not a string"
        if not isinstance(passages, list):
            return f"{self._passages} is {type(passages).__name__}, not a list of strings"
        wrong = next((place for place, passage in enumerate(passages) if not isinstance(passage, str)), None)
        return None if wrong is None else f"{self._passages}[{wrong}] is {type(passages[wrong]).__name__}, not a string"

    def _rank(self, rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        requests = [(row[self._query], row[self._passages]) for row in rows]
        return [[_plain(found) for found in ranking] for ranking in self._reranker.rank_many(requests, *self._cut)]

    def _rank_alone(self, row: dict[str, Any]) -> Outcome:
        try:
            return self._rank([row])[0], None
        except InputError as error:
            return None, str(error)


def _plain(found: RankedPassage) -> dict[str, Any]:
    return {"index": found.index, "score": found.score, "truncated_tokens": found.truncated_tokens}
