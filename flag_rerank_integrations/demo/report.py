"""A demo's result in words, for people, and as plain JSON values, for programs."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from flag_rerank_integrations.evaluation.report import table_of, verdict_on

if TYPE_CHECKING:
    from flag_rerank_integrations.demo.run import DemoResult, Sample

__all__ = ["as_dict", "as_text"]

_SHOWN: Final = 8
_NAME_WIDTH: Final = 44
_BUILT: Final = {
    "LangChain": "ContextualCompressionRetriever + FlagRerankCompressor",
    "LlamaIndex": "RetrieverQueryEngine + FlagRerankPostprocessor",
}


def as_text(result: DemoResult) -> str:
    """Return the report that people read."""
    sections = (_setting(result), _sample(result.sample), _quality(result), _frameworks(result), _speed(result))
    return "\n\n".join("\n".join(section) for section in sections)


def as_dict(result: DemoResult) -> dict[str, Any]:
    """Return everything measured as JSON values."""
    sample = result.sample
    return {
        "model": result.config.model,
        "config": result.config.to_dict(),
        "python": platform.python_version(),
        "passages": result.passages,
        "questions": result.questions,
        "questions_dropped": result.dropped,
        "top_k": result.top_k,
        "sample": {
            "question": sample.query.text,
            "before": [{"name": hit.entry.name, "score": hit.score} for hit in sample.before],
            "after": [ranked._asdict() for ranked in sample.after],
            "grades": sample.query.grades,
        },
        "quality": [dataclasses.asdict(comparison) for comparison in result.comparisons],
        "agreement": dataclasses.asdict(result.agreement),
        "seconds": result.seconds,
        "stats": dataclasses.asdict(result.stats),
    }


def _setting(result: DemoResult) -> Iterator[str]:
    stats = result.stats
    devices = ", ".join(device.name for device in stats.devices)
    dropped = f", {result.dropped} dropped that this Python cannot answer" if result.dropped else ""
    yield f"Corpus     {result.passages:,} docstrings of Python {platform.python_version()}'s own standard library"
    yield f"Questions  {result.questions} judged ones{dropped}; BM25 finds {result.top_k} candidates for each"
    yield f"Model      {result.config.model} (family {stats.family}) on {devices}, loaded once for both frameworks"


def _sample(sample: Sample) -> Iterator[str]:
    yield f"Sample question: {sample.query.text}"
    if not sample.before:
        yield "  No passage shares a word with it."
        return
    if sample.query.grades:
        yield "  [2] answers it, [1] helps, [ ] neither"
    ranks = {hit.entry.name: rank for rank, hit in enumerate(sample.before, 1)}
    yield f"       {'BM25 order':<{_NAME_WIDTH}}  {'re-ranked':<{_NAME_WIDTH}} score   was"
    for rank, (hit, ranked) in enumerate(zip(sample.before[:_SHOWN], sample.after[:_SHOWN], strict=True), 1):
        before = _name(hit.entry.name, sample.query.grades)
        after = _name(ranked.name, sample.query.grades)
        yield f"  {rank:>2}.  {before}  {after} {ranked.score:>6.2f} {ranks[ranked.name]:>4}."


def _name(name: str, grades: dict[str, int]) -> str:
    """Return a name with its grade, cut or filled to the column."""
    marked = f"[{grades.get(name, ' ')}] {name}" if grades else name
    return f"{marked:<{_NAME_WIDTH}}" if len(marked) <= _NAME_WIDTH else f"{marked[: _NAME_WIDTH - 3]}..."


def _quality(result: DemoResult) -> Iterator[str]:
    yield f"Quality over {result.questions} questions"
    yield from (f"  {line}" for line in table_of(result.comparisons, "BM25"))
    yield f"  {verdict_on(result.comparisons[0], 'BM25', 'questions')}"
    yield "  Intervals and p-values are those of a paired bootstrap over the questions."


def _frameworks(result: DemoResult) -> Iterator[str]:
    yield "Frameworks"
    for name, built in _BUILT.items():
        yield f"  {name:<11} {built:<55} {result.seconds[name]:>6.1f} s"
    agreement = result.agreement
    verdict = "Both agree" if agreement.same_order == agreement.questions else "THEY DIFFER"
    yield (
        f"  {verdict}: the same order for {agreement.same_order} of {agreement.questions} questions; "
        f"scores differ by at most {agreement.largest_difference:.2g}."
    )


def _speed(result: DemoResult) -> Iterator[str]:
    stats = result.stats
    pairs_per_second = stats.scored_pairs / stats.seconds if stats.seconds else 0.0
    tokens_per_pair = stats.tokens / stats.scored_pairs if stats.scored_pairs else 0.0
    yield "Speed"
    yield f"  {stats.scored_pairs:,} pairs in {stats.seconds:.1f} s: {pairs_per_second:,.1f} pairs/s"
    yield f"  {stats.tokens:,} tokens, {tokens_per_pair:.0f} a pair: {stats.tokens_per_second:,.0f} tokens/s"
    yield f"  layout {stats.layout!r}: padding is {stats.padding_fraction:.1%} of the positions computed"
    yield f"  start-up: {_steps(result.seconds, leave_out=_BUILT)}"
    yield f"  of which the model: {_steps(stats.load_seconds)}"


def _steps(seconds: dict[str, float], leave_out: Sequence[str] | dict[str, str] = ()) -> str:
    return ", ".join(f"{step} {taken:.1f} s" for step, taken in seconds.items() if step not in leave_out)
