"""Measures of a ranking by their usual names, computed by `ir_measures`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from flag_rerank_integrations.errors import ConfigError, MissingExtraError

__all__ = ["MISSING_EXTRA", "check_measures", "values_by_query"]

MISSING_EXTRA: Final = "evaluation needs ir-measures: pip install 'flag-rerank-integrations[eval]'"
_SIMPLE: Final = re.compile(r"(?P<name>[^\W\d][\w]*)(?:@(?P<cutoff>[0-9]+))?", re.ASCII)
# What people write, in lower case, and what ir_measures calls it.
_ALIASES: Final = {
    "ap": "AP",
    "map": "AP",
    "mrr": "RR",
    "ndcg": "nDCG",
    "p": "P",
    "precision": "P",
    "r": "R",
    "recall": "R",
    "rr": "RR",
    "success": "Success",
}


def check_measures(names: Sequence[str]) -> None:
    """Refuse measures that cannot be computed, before any work is done.

    Raises:
        ConfigError: There is none, or one of them is unknown or cannot be computed here.
        MissingExtraError: `ir_measures` is not installed.
    """
    if isinstance(names, str) or not names:
        msg = f"measures must be a list of at least one name, such as 'nDCG@10', not {names!r}."
        raise ConfigError(msg)
    for name in names:
        _measure(name)


def values_by_query(
    names: Sequence[str], qrels: Mapping[str, Mapping[str, int]], rankings: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Measure rankings; a query without a ranking counts as a measure's default, usually 0.

    Rankings are measured by their order alone, so that no tool's rule for equal scores comes in. Grades
    below 0 count as 0: trec_eval keeps them for passages that nobody judged.

    Args:
        names: Measures, such as "nDCG@10", "RR@10" (or "MRR@10"), "R@100" (or "recall@100"), "AP", or
            whatever https://ir-measur.es names.
        qrels: Grades by query id and passage id.
        rankings: Passage ids by query id, best first; each at most once.

    Returns:
        Each measure's values by query id, for the queries of `qrels` and in its order.

    Raises:
        ConfigError: A measure is unknown or cannot be computed here.
        MissingExtraError: `ir_measures` is not installed.
    """
    measures = {name: _measure(name) for name in names}
    import ir_measures

    judged = {query: {passage: max(0, grade) for passage, grade in grades.items()} for query, grades in qrels.items()}
    run = {
        query: {passage: float(len(ranking) - place) for place, passage in enumerate(ranking)}
        for query, ranking in rankings.items()
        if query in judged and ranking
    }
    found: dict[str, dict[str, float]] = {str(measure): {} for measure in measures.values()}
    try:
        for metric in ir_measures.iter_calc(list({*measures.values()}), judged, run):
            found[str(metric.measure)][metric.query_id] = float(metric.value)
    except Exception as error:  # some measures are computed by other programs, each with its own demands and errors
        msg = f"ir-measures could not compute {', '.join(names)} of this data ({type(error).__name__}: {error})."
        raise ConfigError(msg) from error
    return {name: {query: found[str(measure)][query] for query in judged} for name, measure in measures.items()}


def _measure(name: str) -> Any:  # noqa: ANN401 - ir_measures ships no type information
    """Return the measure of a name."""
    try:
        import ir_measures
    except ModuleNotFoundError as error:
        raise MissingExtraError(MISSING_EXTRA, name="ir_measures") from error
    simple = _SIMPLE.fullmatch(name.strip())
    providers: Any = ir_measures.DefaultPipeline  # its methods are not annotated
    try:
        measure = ir_measures.parse_measure(name.strip()) if simple is None else _simple_measure(simple)
        available = providers.supports(measure)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError) as error:
        reason = "" if isinstance(error, LookupError) else f" ({error})"  # of those, only the name, once more
        msg = f"{name!r} is no measure that ir-measures knows{reason}; some are nDCG@10, RR@10, R@100, AP and P@10."
        raise ConfigError(msg) from error
    if not available:
        msg = f"The measure {name!r} cannot be computed here: see https://ir-measur.es for what computes it."
        raise ConfigError(msg)
    return measure


def _simple_measure(parts: re.Match[str]) -> Any:  # noqa: ANN401 - as above
    """Return the measure of a name and a cutoff; ir_measures' own parser does not run on every Python."""
    import ir_measures

    name = _ALIASES.get(parts["name"].lower(), parts["name"])
    measure = ir_measures.measures.registry[name]()
    if parts["cutoff"] is None:
        return measure
    if not int(parts["cutoff"]):
        msg = "a cutoff is at least 1"
        raise ValueError(msg)
    return measure @ int(parts["cutoff"])
