"""Re-ranks judged queries at one length after the other, so that it shows what a shorter length costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from flag_rerank_integrations.bench.quality import Change, Quality
from flag_rerank_integrations.bench.workload import Request
from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.evaluation import (
    Evaluation,
    JudgedSet,
    Run,
    bm25_run,
    evaluate,
    paired_difference,
    read_run,
)
from flag_rerank_integrations.evaluation.measures import check_measures
from flag_rerank_integrations.reranker import Reranker

__all__ = ["DEFAULT_JUDGED_QUERIES", "DEFAULT_TOP_K", "Judging"]

DEFAULT_TOP_K: Final = 20
DEFAULT_JUDGED_QUERIES: Final = 100
_MEASURE: Final = "nDCG@10"
_QRELS_FOLDER: Final = "qrels"


class Judging:
    """Judged queries with the candidates of a first stage; call it with a config to measure nDCG@10.

    Args:
        judged: Queries, passages and judgements.
        run: What the first stage found; by default BM25 over the corpus.
        top_k: Candidates of each query to re-rank.
        queries: How many queries to take, spread over the set; None is all.

    Raises:
        ConfigError: A number is wrong.
        InputError: No query can be evaluated, or the run names a passage that the corpus lacks.
        MissingExtraError: `ir_measures`, or for BM25 `bm25s`, is not installed.
    """

    def __init__(
        self,
        judged: JudgedSet,
        run: Run | None = None,
        *,
        top_k: int = DEFAULT_TOP_K,
        queries: int | None = DEFAULT_JUDGED_QUERIES,
    ) -> None:
        check_measures([_MEASURE])
        self._judged = judged.limited(queries)
        self._run = bm25_run(self._judged, top_k) if run is None else run
        self._top_k = top_k
        self._longest: Evaluation | None = None

    @classmethod
    def from_files(  # noqa: PLR0913 - one for each option of the command
        cls,
        qrels: str | Path,
        *,
        corpus: str | None = None,
        queries: str | None = None,
        run: str | None = None,
        top_k: int = DEFAULT_TOP_K,
        limit: int | None = DEFAULT_JUDGED_QUERIES,
    ) -> Judging:
        """Read judged queries.

        Args:
            qrels: A folder in BEIR's layout, or a file of judgements; what else is needed lies beside it.
            corpus: The passages, where they lie elsewhere.
            queries: The queries, where they lie elsewhere.
            run: A TREC run, the first stage; by default BM25 over the corpus.
            top_k: Candidates of each query to re-rank.
            limit: How many queries to take; None is all.

        Raises:
            RerankError: As the constructor, or a file cannot be read.
        """
        path = Path(qrels)
        if path.is_dir():
            judged = JudgedSet.from_folder(path, corpus=corpus, queries=queries)
        else:
            home = path.parent.parent if path.parent.name == _QRELS_FOLDER else path.parent
            judged = JudgedSet.from_folder(home, corpus=corpus, queries=queries, qrels=path)
        return cls(judged, None if run is None else read_run(run), top_k=top_k, queries=limit)

    @property
    def name(self) -> str:
        """What the judged set is called."""
        return self._judged.name

    def requests(self) -> list[Request]:
        """Return each query with its candidates: the texts whose lengths decide about the speed."""
        judged = self._judged
        found = ((query, self._run.get(query, ())[: self._top_k]) for query in judged.asked())
        return [
            (judged.queries[query], [judged.corpus[hit.passage_id] for hit in hits if hit.passage_id in judged.corpus])
            for query, hits in found
        ]

    def __call__(self, config: RerankConfig) -> Quality:
        """Re-rank all queries. The first call is for the longest length: the others are compared with it.

        Raises:
            RerankError: The model cannot be loaded or run in this way.
        """
        with Reranker.from_config(config) as reranker:
            found = evaluate(self._judged, reranker, self._run, top_k=self._top_k, measures=[_MEASURE])
        by_measure = found.comparison(_MEASURE)
        cost = None if self._longest is None else _change(_values(self._longest), _values(found))
        if self._longest is None:
            self._longest = found
        return Quality(
            config.max_length,
            ndcg=by_measure.after,
            first_stage=by_measure.before,
            gain=Change(by_measure.difference, by_measure.low, by_measure.high),
            cost=cost,
            queries=found.queries,
        )


def _values(found: Evaluation) -> list[float]:
    return [query.after[_MEASURE] for query in found.per_query]


def _change(before: Sequence[float], after: Sequence[float]) -> Change:
    difference = paired_difference(before, after)
    return Change(difference.mean, difference.low, difference.high)
