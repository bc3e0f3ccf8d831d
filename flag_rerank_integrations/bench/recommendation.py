"""Which of the measured settings to take, by a rule that is written down, and why in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from flag_rerank_integrations.bench.grid import Setting
from flag_rerank_integrations.bench.measurement import Round, Row
from flag_rerank_integrations.bench.quality import Quality
from flag_rerank_integrations.bench.wording import counted, short
from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.errors import ConfigError

__all__ = ["GOALS", "Recommendation", "Rule", "chosen_options", "recommend"]

GOALS: Final = ("throughput", "latency")
_LEAST_NOISE: Final = 0.03


@dataclass(frozen=True, slots=True)
class Rule:
    """What decides.

    1. Settings that failed are out; so are those that ran out of memory on the way or lost a worker, if there are
       others.
    2. With judged queries, lengths whose nDCG@10 is less than `min_ndcg_ratio` of the best length's are out.
       Without, lengths that cut more than `max_truncated` of the passages are out. If that leaves none, those
       with the fewest passages cut stay.
    3. Of what is left, the fastest counts, and whatever is within the noise of it: its fastest round is no slower
       than the slowest round of the fastest, or its median is at most 3% behind.
    4. Among these: the longest length, then the fewest workers, then whichever the grid names first.

    Args:
        goal: What fast means: "throughput", many requests at once, or "latency", one request by itself.
        max_truncated: Largest share of passages that may be cut, 0 to 1.
        min_ndcg_ratio: Least share of the best length's nDCG@10 that a length must keep, 0 to 1.

    Raises:
        ConfigError: A value is wrong.
    """

    goal: str = "throughput"
    max_truncated: float = 0.05
    min_ndcg_ratio: float = 0.99

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.goal not in GOALS:
            msg = f"goal must be one of {', '.join(map(repr, GOALS))}, not {self.goal!r}."
            raise ConfigError(msg)
        for name in ("max_truncated", "min_ndcg_ratio"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                msg = f"{name} must be a number from 0 to 1, not {value!r}."
                raise ConfigError(msg)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One setting, and why it was chosen."""

    setting: Setting
    reason: str
    options: dict[str, Any]
    """What `Reranker.from_config` takes: the four measured options, and all others that differ from the defaults."""


def recommend(
    rows: Sequence[Row], config: RerankConfig, rule: Rule, qualities: Sequence[Quality] = ()
) -> Recommendation | None:
    """Choose a setting; see `Rule` for how.

    Args:
        rows: What was measured.
        config: The options that all settings share.
        rule: What decides.
        qualities: nDCG@10 by length, where there were judged queries.

    Returns:
        None where nothing was measured.
    """
    measured = [row for row in rows if row.measured]
    if not measured:
        return None
    steady = [row for row in measured if row.stable] or measured
    kept, why = _long_enough(steady, rule, qualities)
    rate = _pass_rate if rule.goal == "throughput" else _request_rate
    tied = _within_noise(kept, rate)
    best = min(tied, key=lambda row: (-row.setting.max_length, max(each.workers for each in row.rounds)))
    reason = f"{why} {_speed_reason(best, tied, kept, rule)}"
    if len(steady) < len(measured):
        out = len(measured) - len(steady)
        reason += f" Left out: {counted(out, 'setting')} that ran out of memory on the way or lost a worker."
    return Recommendation(best.setting, reason, chosen_options(best.setting.applied(config)))


def chosen_options(config: RerankConfig) -> dict[str, Any]:
    """Return the four measured options, and all others that differ from the defaults, as JSON values."""
    always = {"model", *(field.name for field in dataclasses.fields(Setting))}
    defaults = RerankConfig().to_dict()
    return {n: value for n, value in config.to_dict().items() if n in always or value != defaults[n]}


def _long_enough(rows: Sequence[Row], rule: Rule, qualities: Sequence[Quality]) -> tuple[list[Row], str]:
    """Keep the rows whose length costs little, and say which those are."""
    ndcg = {each.max_length: each.ndcg for each in qualities if each.ndcg is not None}
    judged = [row for row in rows if row.setting.max_length in ndcg]
    if judged:
        best = max(ndcg.values())
        kept = [row for row in judged if ndcg[row.setting.max_length] >= rule.min_ndcg_ratio * best]
        limit = f"of the best nDCG@10 ({best:.3f})"
        if kept:
            return kept, f"{_lengths(kept)} {_keep(kept)} at least {rule.min_ndcg_ratio:.1%} {limit}."
        most = max(ndcg[row.setting.max_length] for row in judged)
        kept = [row for row in judged if ndcg[row.setting.max_length] == most]
        return kept, f"{_lengths(kept)} comes nearest to {rule.min_ndcg_ratio:.1%} {limit}."
    kept = [row for row in rows if row.truncated_share <= rule.max_truncated]
    if kept:
        return (
            kept,
            f"{_lengths(kept)} {'cuts' if _is_one(kept) else 'cut'} at most {rule.max_truncated:.1%} of the passages.",
        )
    least = min(row.truncated_share for row in rows)
    kept = [row for row in rows if row.truncated_share == least]
    return kept, (
        f"No length cuts at most {rule.max_truncated:.1%} of the passages; {_lengths(kept)} "
        f"{'cuts' if _is_one(kept) else 'cut'} the fewest, {least:.1%}."
    )


def _within_noise(rows: Sequence[Row], rate: Callable[[Round], float]) -> list[Row]:
    """Keep the fastest row and those that cannot be told from it."""
    rates = [[rate(each) for each in row.rounds] for row in rows]
    fastest = max(rates, key=median)
    least = (1 - _LEAST_NOISE) * median(fastest)
    return [row for row, own in zip(rows, rates, strict=True) if max(own) >= min(fastest) or median(own) >= least]


def _pass_rate(measured: Round) -> float:
    return measured.pairs_per_second


def _request_rate(measured: Round) -> float:
    """Return requests per second, one after the other."""
    return len(measured.latencies) / sum(measured.latencies)


def _speed_reason(best: Row, tied: Sequence[Row], kept: Sequence[Row], rule: Rule) -> str:
    """Say how fast the chosen setting is, and what it was preferred to."""
    if rule.goal == "throughput":
        speed = f"{short(best.pairs_per_second)} pairs/s"
    else:
        speed = f"{short(best.latency * 1000)} ms a request"
    if len(kept) == 1:
        return f"That leaves one setting, with {speed}."
    if len(tied) == 1:
        return f"Of these {len(kept)} settings it is the fastest, with {speed}."
    return (
        f"Of these {len(kept)} settings {len(tied)} are as fast as the fastest within the noise; it reads the "
        f"longest texts of them, with the fewest workers: {speed}."
    )


def _lengths(rows: Sequence[Row]) -> str:
    lengths = sorted({row.setting.max_length for row in rows})
    return f"max_length {', '.join(map(str, lengths))}"


def _is_one(rows: Sequence[Row]) -> bool:
    return len({row.setting.max_length for row in rows}) == 1


def _keep(rows: Sequence[Row]) -> str:
    return "keeps" if _is_one(rows) else "keep"
