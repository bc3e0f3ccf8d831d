"""The demo's flow: corpus, first stage, both pipelines over the judged questions, measures."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.demo.corpus import Entry, harvest
from flag_rerank_integrations.demo.first_stage import FirstStage, Hit
from flag_rerank_integrations.demo.judgements import ANSWERS, JudgedQuery, known, load
from flag_rerank_integrations.demo.pipelines import PIPELINES, Pipeline, Ranked
from flag_rerank_integrations.errors import ConfigError, InputError
from flag_rerank_integrations.results import RerankStats

if TYPE_CHECKING:
    from flag_rerank_integrations.demo.quality import Comparison

__all__ = ["DEFAULT_TOP_K", "Agreement", "DemoResult", "Sample", "missing_distributions", "run"]

DEFAULT_TOP_K: Final = 20

_Timed = Callable[[str, str], AbstractContextManager[None]]

_NEEDED: Final = {
    "bm25s": "bm25s",
    "ir_measures": "ir-measures",
    "langchain_classic": "langchain-classic",
    "langchain_core": "langchain-core",
    "llama_index.core": "llama-index-core",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One question's candidates before and after re-ranking."""

    query: JudgedQuery
    before: list[Hit]
    after: list[Ranked]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whether the two frameworks returned the same."""

    questions: int
    same_order: int
    """Questions for which both returned the same passages in the same order."""
    largest_difference: float
    """Largest difference between the two scores of a passage."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """All that one run of the demo found out."""

    config: RerankConfig
    passages: int
    questions: int
    dropped: int
    """Judged questions that nothing in this Python's library answers."""
    top_k: int
    sample: Sample
    comparisons: list[Comparison]
    agreement: Agreement
    stats: RerankStats
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by step, a step for each framework among them."""


def missing_distributions() -> list[str]:
    """Return the distributions of the `demo` extra that are not installed."""
    return [distribution for module, distribution in _NEEDED.items() if not _is_installed(module)]


def run(  # noqa: PLR0913 - the options of one command
    config: RerankConfig,
    *,
    top_k: int = DEFAULT_TOP_K,
    limit: int | None = None,
    question: str | None = None,
    say: Callable[[str], None] = lambda _: None,
    progress: bool = False,
) -> DemoResult:
    """Retrieve and re-rank every judged question in both frameworks, with one loaded model.

    Args:
        config: The model and where it runs.
        top_k: Candidates that the first stage finds for each question.
        limit: How many of the judged questions to ask; None is all.
        question: The question to show before and after; by default the first judged one for
            which the first stage finds an answer, wherever in its list.
        say: Takes a line of text when a step begins.
        progress: Whether to show a progress bar over the questions on standard error.

    Raises:
        ConfigError: `top_k` or `limit` is less than 1.
        FileNotFoundError: This Python was installed without its library's source.
        InputError: No judged question fits this Python's library.
        RerankError: The model cannot be loaded or run.
    """
    _check(top_k=top_k, limit=1 if limit is None else limit)
    from flag_rerank_integrations.demo.quality import compare
    from flag_rerank_integrations.reranker import Reranker

    seconds: dict[str, float] = {}
    timed = partial(_timed, seconds, say)
    entries, first_stage = _prepare(timed)
    queries, dropped = known(load(), {entry.name for entry in entries})
    if not queries:
        msg = "None of the judged questions can be answered from this Python's standard library."
        raise InputError(msg)
    queries = queries[:limit]
    with timed("model", f"Loading {config.model!r}"):
        reranker = Reranker.from_config(config)
    with reranker:
        pipelines = {}
        for name, build in PIPELINES.items():
            with timed(f"{name} import", f"Importing {name}"):
                pipelines[name] = build(first_stage, reranker, top_k)
        rankings = _ask_all(pipelines, queries, timed, progress=progress)
        stats = reranker.stats()
        sample = _sample(question, queries, first_stage, pipelines["LangChain"], top_k)
    before = [[hit.entry.name for hit in first_stage.search(query.text, top_k)] for query in queries]
    after = [[ranked.name for ranked in ranking] for ranking in rankings["LangChain"]]
    return DemoResult(
        config=config,
        passages=len(entries),
        questions=len(queries),
        dropped=dropped,
        top_k=top_k,
        sample=sample,
        comparisons=compare(queries, before, after, top_k),
        agreement=_agreement(rankings["LangChain"], rankings["LlamaIndex"]),
        stats=stats,
        seconds=seconds,
    )


def _prepare(timed: _Timed) -> tuple[list[Entry], FirstStage]:
    """Read the corpus and index it."""
    with timed("corpus", "Reading the standard library's docstrings"):
        entries = harvest()
    with timed("BM25 index", "Building the BM25 index"):
        return entries, FirstStage(entries)


def _ask_all(
    pipelines: Mapping[str, Pipeline], queries: Sequence[JudgedQuery], timed: _Timed, *, progress: bool
) -> dict[str, list[list[Ranked]]]:
    """Ask every question of every pipeline, one after the other."""
    from tqdm import tqdm

    rankings = {}
    for name, ask in pipelines.items():
        with timed(name, f"Asking {len(queries)} questions through {name}"):
            bar = tqdm(queries, desc=name, unit="question", disable=not progress, leave=False)
            rankings[name] = [ask(query.text) for query in bar]
    return rankings


def _sample(
    question: str | None, queries: Sequence[JudgedQuery], first_stage: FirstStage, ask: Pipeline, top_k: int
) -> Sample:
    """Ask the question that is shown; one of our own judged questions keeps its grades."""
    if question is None:
        shown = next((query for query in queries if _is_found(query, first_stage, top_k)), queries[0])
    else:
        shown = next((query for query in queries if query.text == question), JudgedQuery(question, {}))
    return Sample(shown, first_stage.search(shown.text, top_k), ask(shown.text))


def _is_found(query: JudgedQuery, first_stage: FirstStage, top_k: int) -> bool:
    """Return whether the candidates hold an answer: without one, no order of them is a good one."""
    return any(query.grades.get(hit.entry.name) == ANSWERS for hit in first_stage.search(query.text, top_k))


def _agreement(one: Sequence[Sequence[Ranked]], other: Sequence[Sequence[Ranked]]) -> Agreement:
    """Compare what the two frameworks returned for each question."""
    pairs = list(zip(one, other, strict=True))
    same = sum([a.name for a in left] == [b.name for b in right] for left, right in pairs)
    scores = [(dict(left), dict(right)) for left, right in pairs]
    differences = [abs(left[name] - right[name]) for left, right in scores for name in left.keys() & right.keys()]
    return Agreement(len(pairs), same, max(differences, default=0.0))


def _check(**counts: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            msg = f"{name} must be a whole number of at least 1, not {value!r}."
            raise ConfigError(msg)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


@contextmanager
def _timed(seconds: dict[str, float], say: Callable[[str], None], step: str, line: str) -> Iterator[None]:
    """Announce a step, and note the seconds it takes."""
    say(f"{line} ...")
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start
