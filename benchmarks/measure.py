"""Runs systems in turn on the same texts, with a probe of the matrix-product rate between any two runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from benchmarks.floor import Gemm, Rate
from benchmarks.systems import Ours, System, said
from benchmarks.workloads import Request

__all__ = ["Limits", "Series", "measure"]

# Threads that spin while they wait for more work, as some runtimes' do, must not slow whoever comes next.
_SETTLE_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Limits:
    """How often to measure."""

    repeats: int
    """Rounds: each runs every system once."""
    seconds: float
    """No new round begins after so many seconds; there is always one."""
    short_seconds: float = 10.0
    """Rounds go on for so long in any case, up to five times `repeats`: short runs are noisy."""

    def go_on(self, rounds: int, spent: float) -> bool:
        """Say whether another round begins."""
        if rounds == 0:
            return True
        if spent < self.short_seconds:
            return rounds < 5 * self.repeats
        return rounds < self.repeats and spent < self.seconds


@dataclass(slots=True)
class Series:
    """All runs of one system on one workload."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """CPU seconds of all threads of the process."""
    gemm: list[Rate] = field(default_factory=list)
    """The mean of the probes just before and just after each run."""
    scores: list[float] = field(default_factory=list)
    computed_tokens: int = 0
    """Token positions of one run, padding and repeated batches included."""
    failure: str = ""

    def floor_share(self, operations: int) -> float:
        """Return the median, over the runs, of the least time possible over the time taken."""
        return median(operations / rate.wall / wall for rate, wall in zip(self.gemm, self.wall, strict=True))

    def cpu_floor_share(self, operations: int) -> float:
        """Return the same in CPU seconds, which other programs on the machine disturb less."""
        return median(operations / rate.cpu / cpu for rate, cpu in zip(self.gemm, self.cpu, strict=True))


def measure(
    systems: Mapping[str, System], requests: Sequence[Request], gemm: Gemm, vocabulary: int, limits: Limits
) -> dict[str, Series]:
    """Measure systems in turn: A, B, C, then B, C, A, and so on.

    A system that fails keeps the reason and takes no further part.

    Args:
        systems: Loaded systems by name.
        requests: The texts.
        gemm: Probes the machine between runs.
        vocabulary: Rows of the models' word-embedding table, by which computed tokens are told.
        limits: How often.
    """
    found = {name: Series() for name in systems}
    start, rounds = time.perf_counter(), 0
    rate = gemm.rate()
    while limits.go_on(rounds, time.perf_counter() - start):
        names = [name for name in systems if not found[name].failure]
        turn = rounds % max(1, len(names))
        for name in names[turn:] + names[:turn]:
            time.sleep(_SETTLE_SECONDS)
            _run(systems[name], requests, found[name], vocabulary)
            time.sleep(_SETTLE_SECONDS)
            before, rate = rate, gemm.rate()
            if not found[name].failure:
                found[name].gemm.append(before.mean(rate))
        rounds += 1
    return found


def _run(system: System, requests: Sequence[Request], series: Series, vocabulary: int) -> None:
    before = _own_count(system)
    with _counted(vocabulary) as count:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            scores = system.score(requests)
        except Exception as error:  # noqa: BLE001 - whatever a peer raises is its result
            series.failure = said(error)
            return
        series.cpu.append(time.process_time() - cpu)
        series.wall.append(time.perf_counter() - wall)
    series.scores = scores
    series.computed_tokens = count[0] if before is None else (_own_count(system) or 0) - before


def _own_count(system: System) -> int | None:
    """Return the tokens that a system says it has computed so far, if it says so."""
    if isinstance(system, Ours):
        return system.reranker.stats().computed_tokens
    tokens: int | None = getattr(system, "computed_tokens", None)
    return tokens


@contextmanager
def _counted(vocabulary: int) -> Iterator[list[int]]:
    """Count the ids that are looked up in word-embedding tables: what a torch model computes.

    It costs about a microsecond a lookup, and works however a system wraps its model.
    """
    import torch.nn.functional as F  # noqa: N812 - its usual name

    original, count = F.embedding, [0]

    def embedding(ids: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - passed through
        if weight.shape[0] == vocabulary:
            count[0] += ids.numel()
        return original(ids, weight, *args, **kwargs)

    F.embedding = embedding  # type: ignore[assignment]
    try:
        yield count
    finally:
        F.embedding = original
