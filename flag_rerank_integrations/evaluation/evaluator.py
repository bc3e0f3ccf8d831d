"""Re-rank a first stage's passages and measure what it did."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Final, Protocol

from flag_rerank_integrations.errors import ConfigError, InputError
from flag_rerank_integrations.evaluation.first_stage import bm25_run
from flag_rerank_integrations.evaluation.judged_set import JudgedSet
from flag_rerank_integrations.evaluation.measures import check_measures, values_by_query
from flag_rerank_integrations.evaluation.results import Evaluation, QueryValues, compare
from flag_rerank_integrations.evaluation.runs import Run, ScoredPassage, ordered
from flag_rerank_integrations.progress import one_bar
from flag_rerank_integrations.results import RankedPassage

__all__ = ["DEFAULT_TOP_K", "RanksMany", "default_measures", "evaluate"]

logger: Final = logging.getLogger(__name__)

DEFAULT_TOP_K: Final = 100
_DEPTH: Final = 10


class RanksMany(Protocol):
    """What is evaluated: a `Reranker`, a `RemoteReranker`, or whatever ranks as they do."""

    def rank_many(self, requests: Sequence[tuple[str, Sequence[str]]]) -> list[list[RankedPassage]]:
        """Rank the passages of many queries, best first, every passage of each."""
        ...


def default_measures(top_k: int) -> tuple[str, ...]:
    """Return the measures that are taken where none are named."""
    ceiling = () if top_k == _DEPTH else (f"R@{top_k}",)
    return (f"nDCG@{_DEPTH}", f"RR@{_DEPTH}", f"R@{_DEPTH}", *ceiling)


def evaluate(  # noqa: PLR0913 - the options of one command
    judged: JudgedSet,
    reranker: RanksMany,
    run: Mapping[str, Sequence[ScoredPassage]] | None = None,
    *,
    top_k: int = DEFAULT_TOP_K,
    measures: Sequence[str] | None = None,
    limit_queries: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Re-rank the best passages of a first stage, and compare both rankings by the judgements.

    The queries evaluated are those that have a text and a judgement. What lies beyond `top_k` follows
    as the first stage had it, so that both rankings hold the same passages. A query for which the first
    stage found nothing counts as 0, as in trec_eval's complete mode (`-c`).

    Args:
        judged: Queries, passages and judgements.
        reranker: What ranks; it is not closed.
        run: What the first stage found, by query id; see `read_run`. By default BM25 over the corpus.
        top_k: Passages of each query to re-rank.
        measures: Names such as "nDCG@10"; see `values_by_query`. By default nDCG@10, RR@10, R@10 and recall of
            all that was re-ranked.
        limit_queries: How many queries to take, spread over the set; None is all.
        seed: Of the bootstrap; see `paired_difference`.
        progress: Whether to show a progress bar over the pairs on standard error, and others over BM25's work.

    Raises:
        ConfigError: `top_k`, `limit_queries` or a measure is wrong.
        InputError: No query can be evaluated, or the run names a passage that the corpus lacks.
        MissingExtraError: `ir_measures`, or for BM25 `bm25s`, is not installed.
        RerankError: Ranking failed.
    """
    names = default_measures(top_k) if measures is None else measures
    _check(top_k, names, seed)
    chosen = judged.limited(limit_queries)
    asked = chosen.asked()
    if not asked:
        msg = f"No query of {judged.name} has both a text and a judgement: do the ids in queries and qrels match?"
        raise InputError(msg)
    found = bm25_run(chosen, top_k, progress=progress) if run is None else run
    first_stage = {query: ordered(found.get(query, ())) for query in asked}
    qrels = {query: chosen.qrels[query] for query in asked}
    old = values_by_query(names, qrels, _ids(first_stage))  # first of all, for it may fail
    requests = {query: _texts(chosen, query, hits[:top_k]) for query, hits in first_stage.items() if hits}
    _start(reranker)
    pairs = sum(map(len, requests.values()))
    with one_bar(pairs, f"evaluating {judged.name}") if progress else nullcontext():
        start = time.perf_counter()
        rankings = reranker.rank_many([(chosen.queries[query], texts) for query, texts in requests.items()])
        seconds = time.perf_counter() - start
    reranked = {**first_stage}
    for query, ranking in zip(requests, rankings, strict=True):
        reranked[query] = _in_order(first_stage[query], ranking)
    new = values_by_query(names, qrels, _ids(reranked))
    return Evaluation(
        name=judged.name,
        top_k=top_k,
        comparisons=compare(old, new, seed),
        per_query=_per_query(chosen, old, new),
        first_stage=first_stage,
        reranked=reranked,
        pairs=pairs,
        truncated_pairs=_truncated(rankings),
        seconds=seconds,
        notes=tuple(_notes(judged, chosen, found, requests)),
    )


def _start(reranker: object) -> None:
    """Load the model unless that is done, so that the seconds told are those of ranking."""
    start = getattr(reranker, "start", None)
    if callable(start):
        start()


def _check(top_k: int, measures: Sequence[str], seed: int) -> None:
    for name, value, least in (("top_k", top_k, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            msg = f"{name} must be a whole number of at least {least}, not {value!r}."
            raise ConfigError(msg)
    check_measures(measures)


def _texts(judged: JudgedSet, query: str, hits: Sequence[ScoredPassage]) -> list[str]:
    missing = [hit.passage_id for hit in hits if hit.passage_id not in judged.corpus]
    if missing:
        msg = (
            f"The run names passage {missing[0]!r} for query {query!r}, and {judged.name} has no passage of that id "
            f"({len(missing)} of the {len(hits)} for this query are missing): is it a run over another corpus?"
        )
        raise InputError(msg)
    return [judged.corpus[hit.passage_id] for hit in hits]


def _in_order(hits: Sequence[ScoredPassage], ranking: Sequence[RankedPassage]) -> list[ScoredPassage]:
    """Return the passages as they were ranked, and behind them those that were not."""
    best = [ScoredPassage(hits[ranked.index].passage_id, ranked.score) for ranked in ranking]
    places = {ranked.index for ranked in ranking}
    return [*best, *(hit for place, hit in enumerate(hits) if place not in places)]


def _per_query(
    judged: JudgedSet, before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]
) -> tuple[QueryValues, ...]:
    """Turn values by measure and query into values by query and measure."""
    return tuple(
        QueryValues(
            query,
            judged.queries[query],
            {measure: values[query] for measure, values in before.items()},
            {measure: values[query] for measure, values in after.items()},
        )
        for query in judged.asked()
    )


def _ids(run: Run) -> dict[str, list[str]]:
    return {query: [hit.passage_id for hit in hits] for query, hits in run.items()}


def _truncated(rankings: Sequence[Sequence[RankedPassage]]) -> int | None:
    counts = [ranked.truncated_tokens for ranking in rankings for ranked in ranking]
    return None if None in counts else sum(count != 0 for count in counts)


def _notes(
    judged: JudgedSet,
    chosen: JudgedSet,
    run: Mapping[str, Sequence[ScoredPassage]],
    requests: Mapping[str, Sequence[str]],
) -> Iterator[str]:
    """Say what a reader of the figures should know about the data."""
    asked = chosen.asked()
    counts = {
        "queries without a judgement, left out": sum(not judged.qrels.get(query) for query in judged.queries),
        "judged queries without a text, left out": sum(query not in judged.queries for query in judged.qrels),
        "queries that the first stage found nothing for, counted as 0": len(asked) - len(requests),
        "queries without a relevant passage, counted as 0": sum(
            not any(grade > 0 for grade in chosen.qrels[query].values()) for query in asked
        ),
        "passages found twice for a query, of which the better place counts": sum(
            len(run[query]) - len({hit.passage_id for hit in run[query]}) for query in requests
        ),
        "empty passages to re-rank, whose scores mean nothing": sum(
            not text.strip() for texts in requests.values() for text in texts
        ),
    }
    yield from (f"{what}: {count:,}" for what, count in counts.items() if count)
