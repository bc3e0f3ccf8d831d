"""Measures the settings of a grid in turn, and keeps what it has when it is interrupted or a setting fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from flag_rerank_integrations.bench.grid import Grid, Setting
from flag_rerank_integrations.bench.measurement import Round, Row
from flag_rerank_integrations.bench.quality import Quality
from flag_rerank_integrations.bench.recommendation import Recommendation, Rule, recommend
from flag_rerank_integrations.bench.visit import visit
from flag_rerank_integrations.bench.workload import Workload
from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.errors import ConfigError, RerankError

__all__ = ["DEFAULT_RULE", "BenchResult", "Judge", "Limits", "Measure", "run", "turn"]

DEFAULT_RULE: Final = Rule()

Measure = Callable[[RerankConfig, Workload, float], Round]
"""Measures one setting once, for about so many seconds."""
Judge = Callable[[RerankConfig], Quality]
"""Re-ranks judged queries with these options."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to measure.

    Args:
        repeats: Rounds: each measures every setting once, in a process of its own.
        seconds_per_point: Seconds that one setting is measured for, over all rounds, loading not included.

    Raises:
        ConfigError: A value is wrong.
    """

    repeats: int = 3
    seconds_per_point: float = 15.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if isinstance(self.repeats, bool) or not isinstance(self.repeats, int) or self.repeats < 1:
            msg = f"repeats must be a whole number of at least 1, not {self.repeats!r}."
            raise ConfigError(msg)
        seconds = self.seconds_per_point
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
            msg = f"seconds_per_point must be a positive number, not {seconds!r}."
            raise ConfigError(msg)


@dataclass(slots=True)
class BenchResult:
    """All that one run found out."""

    config: RerankConfig
    workload: Workload
    limits: Limits
    rule: Rule
    rows: list[Row]
    qualities: list[Quality] = field(default_factory=list)
    interrupted: bool = False

    @property
    def rounds(self) -> int:
        """How many measurements were finished."""
        return sum(len(row.rounds) for row in self.rows)

    @property
    def planned(self) -> int:
        """How many there were to be, those of settings that failed included."""
        return len(self.rows) * self.limits.repeats

    @property
    def recommendation(self) -> Recommendation | None:
        """The setting to take; None where nothing was measured."""
        return recommend(self.rows, self.config, self.rule, self.qualities)


def run(  # noqa: PLR0913 - the options of one command
    config: RerankConfig,
    grid: Grid,
    workload: Workload,
    *,
    limits: Limits | None = None,
    rule: Rule = DEFAULT_RULE,
    judge: Judge | None = None,
    progress: bool = False,
    measure: Measure = visit,
) -> BenchResult:
    """Measure every setting of a grid.

    Machines are noisy: in each round every setting is measured once, in turn (A, B, C, then B, C, A), and the
    median of the rounds is taken. Each measurement is a fresh process that loads the model, so that the most
    memory it ever held is that of this setting alone. A setting that fails keeps the reason. Ctrl-C ends the
    measuring; what is finished by then is in the result.

    Args:
        config: The options that all settings share; a score cache is switched off, as texts repeat.
        grid: What to combine.
        workload: What to score.
        limits: How long.
        rule: What the recommendation follows.
        judge: Measures nDCG@10; asked once for each length, the longest first, after the speeds, with the grid's
            first data type and device that did not fail.
        progress: Whether to show a progress bar on standard error.
        measure: Measures one setting once.

    Raises:
        ConfigError: A value of the grid can never be right.
    """
    measured = config.replace(score_cache=0, progress=False)
    chosen = limits or Limits()
    result = BenchResult(config, workload, chosen, rule, [Row(setting) for setting in grid.settings(measured)])
    bar = _Bar(result, judged=judge is not None, shown=progress)
    try:
        for number in range(chosen.repeats):
            for row in turn([row for row in result.rows if row.failure is None], number):
                bar.say(str(row.setting))
                _measure_once(row, measured, result, measure)
                bar.advance(1 if row.failure is None else chosen.repeats - number)
        if judge is not None:
            for length_config in _judged_configs(result.rows, measured):
                bar.say(f"nDCG@10, max_length {length_config.max_length}")
                result.qualities.append(_judged(judge, length_config))
                bar.advance(1)
    except KeyboardInterrupt:
        result.interrupted = True
    finally:
        bar.close()
    return result


def turn(rows: Sequence[Row], number: int) -> list[Row]:
    """Return the rows in the order of a round: each begins one further on."""
    start = number % max(1, len(rows))
    return [*rows[start:], *rows[:start]]


def _measure_once(row: Row, config: RerankConfig, result: BenchResult, measure: Measure) -> None:
    seconds = result.limits.seconds_per_point / result.limits.repeats
    try:
        row.rounds.append(measure(row.setting.applied(config), result.workload, seconds))
    except RerankError as error:
        row.failure = f"{type(error).__name__}: {error}"


def _judged_configs(rows: Sequence[Row], config: RerankConfig) -> list[RerankConfig]:
    """Return one config for each length: a length that nothing could be measured with is not judged."""
    by_length: dict[int, Setting] = {}
    for row in rows:
        if row.measured:
            by_length.setdefault(row.setting.max_length, row.setting)
    return [setting.applied(config) for _, setting in sorted(by_length.items(), reverse=True)]


def _judged(judge: Judge, config: RerankConfig) -> Quality:
    try:
        return replace(judge(config), max_length=config.max_length)
    except RerankError as error:
        return Quality(config.max_length, failure=f"{type(error).__name__}: {error}")


class _Bar:
    """A progress bar over all measurements."""

    def __init__(self, result: BenchResult, *, judged: bool, shown: bool) -> None:
        from tqdm.auto import tqdm

        total = result.planned + judged * len({row.setting.max_length for row in result.rows})
        self._bar: Any = tqdm(total=total, unit="point", desc="measuring", disable=not shown, leave=False)

    def say(self, what: str) -> None:
        """Name what is being measured."""
        self._bar.set_postfix_str(what)

    def advance(self, count: int) -> None:
        """Count measurements, those included that a failure makes needless."""
        self._bar.update(count)

    def close(self) -> None:
        """End the line."""
        self._bar.close()
