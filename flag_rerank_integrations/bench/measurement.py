"""What was measured: rounds of one setting, and the figures that become of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from flag_rerank_integrations.bench.grid import Setting

__all__ = ["Round", "Row", "quantile"]


@dataclass(frozen=True, slots=True)
class Round:
    """One setting measured once, in a process of its own; times in seconds, memory in bytes."""

    pairs: int
    """Pairs of one pass over all requests."""
    tokens: int
    """Real tokens of one pass, special tokens included, padding not."""
    passes: tuple[float, ...]
    """Time of each pass, with all requests in one call."""
    latencies: tuple[float, ...]
    """Time of each request asked by itself, one after the other."""
    truncated_pairs: int = 0
    """Pairs of one pass whose passage was not read to its end."""
    host_memory: int | None = None
    """Largest resident sets of all processes, added up; None where the system does not tell."""
    device_memory: int | None = None
    """The most that one accelerator held for the model and its work, by torch's count; None without one."""
    load_seconds: float = 0.0
    workers: int = 1
    max_batch_tokens: int = 0
    """The token budget that was in force at the end."""
    layout: str = ""
    oom_backoffs: int = 0
    worker_restarts: int = 0

    @property
    def pairs_per_second(self) -> float:
        """Pairs of one pass over the median time of a pass."""
        return self.pairs / median(self.passes)


@dataclass(slots=True)
class Row:
    """One setting with all its rounds. Figures are those of finished rounds; NaN or None without any."""

    setting: Setting
    rounds: list[Round] = field(default_factory=list)
    failure: str | None = None
    """Why it could not be measured; it takes no part in further rounds."""

    @property
    def measured(self) -> bool:
        """Whether it has figures and did not fail."""
        return bool(self.rounds) and self.failure is None

    @property
    def stable(self) -> bool:
        """Whether no batch ran out of memory and no worker had to be started anew."""
        return not any(each.oom_backoffs or each.worker_restarts for each in self.rounds)

    @property
    def pairs_per_second(self) -> float:
        """The median over the rounds, all requests in one call."""
        return self._median([each.pairs_per_second for each in self.rounds])

    @property
    def slowest(self) -> float:
        """Pairs per second of the slowest round."""
        return min((each.pairs_per_second for each in self.rounds), default=math.nan)

    @property
    def fastest(self) -> float:
        """Pairs per second of the fastest round."""
        return max((each.pairs_per_second for each in self.rounds), default=math.nan)

    @property
    def tokens_per_second(self) -> float:
        """Real tokens, not padding: the median over the rounds."""
        return self._median([each.tokens / median(each.passes) for each in self.rounds])

    @property
    def latencies(self) -> list[float]:
        """Seconds of every single request of all rounds."""
        return [seconds for each in self.rounds for seconds in each.latencies]

    @property
    def latency(self) -> float:
        """The median time of one request, in seconds."""
        return self._median(self.latencies)

    @property
    def latency_p95(self) -> float:
        """The time in which 95% of the requests were answered, in seconds; of fewer than 20 the longest."""
        return quantile(self.latencies, 0.95)

    @property
    def truncated_share(self) -> float:
        """Share of the pairs whose passage was not read to its end, 0 to 1."""
        return self._median([each.truncated_pairs / each.pairs for each in self.rounds])

    @property
    def host_memory(self) -> int | None:
        """The most that any round took, in bytes."""
        return max((each.host_memory for each in self.rounds if each.host_memory is not None), default=None)

    @property
    def device_memory(self) -> int | None:
        """The most that one accelerator held in any round, in bytes."""
        return max((each.device_memory for each in self.rounds if each.device_memory is not None), default=None)

    @staticmethod
    def _median(values: Sequence[float]) -> float:
        return median(values) if values else math.nan


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that this share of all values does not exceed (nearest rank); NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
