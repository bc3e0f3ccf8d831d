"""What a reranker gives back: ranked passages, and figures about the work done."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

__all__ = ["CALL_SECONDS_BOUNDS", "DeviceStats", "Histogram", "RankedPassage", "RerankStats", "add", "lives"]

CALL_SECONDS_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds, in seconds, of the buckets that durations of calls are counted in; one more bucket has no bound."""


@dataclass(frozen=True, slots=True)
class RankedPassage:
    """One passage of a ranking."""

    index: int
    """Position of the passage in the list that was ranked, from 0."""
    score: float
    """The model's logit, or its sigmoid where `normalize=True`."""
    truncated_tokens: int | None = 0
    """Tokens of the passage that did not fit and were not read. For a text too long
    to be tokenized whole the part beyond the cap is estimated from its characters.
    None where it is not known: a server does not tell."""
    layer: int | None = None
    """Where the score was read, in a ranking that prunes itself (`progressive`). Whoever got further ranks
    higher; scores of different layers do not compare."""


@dataclass(frozen=True, slots=True)
class DeviceStats:
    """One device; memory is in bytes, and None where the system or the driver does not tell.

    Of a device in a worker process these are the figures at the worker's last answer; where NVML
    can be asked about it from here (see `uuid`), all but the peak are those of now.
    """

    name: str
    free_memory: int | None = None
    """What is left on the device; for "cpu" what is available on the machine."""
    used_memory: int | None = None
    """What all processes together take of the device; for "cpu" what the process that holds the
    model takes (its resident set), whatever else is in it."""
    peak_memory: int | None = None
    """The most that the model and its work took of the device at one time, by torch's count; for
    "cpu" the largest resident set of its process."""
    utilization: float | None = None
    """The part of the driver's last sample period (up to a second) in which anything ran on the device,
    this process's work or another's, 0 to 1; None without NVML (the extra `monitoring`)."""
    total_memory: int | None = None
    """What the device has; for "cpu" the memory of the machine."""
    uuid: str | None = None
    """The driver's name of a CUDA device, such as "GPU-8a6f…": the same in every process, whatever
    mask or order of devices it was started with."""
    up: bool = True
    """Whether the worker on it lives and has its model loaded."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations, counted in buckets."""

    counts: tuple[int, ...]
    """How many fell into each bucket of `CALL_SECONDS_BOUNDS` (up to and including its bound), and how
    many were longer than the last bound."""
    seconds: float
    """The sum of all durations."""

    @property
    def count(self) -> int:
        """How many durations there are."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class RerankStats:
    """A snapshot of all the work one Reranker has done since it was made.

    What is counted never becomes less, whatever happens to workers, and outlives `close`.
    """

    pairs: int = 0
    """Pairs asked for by calls; equal ones count each."""
    scored_pairs: int = 0
    """Pairs the model ran on: equal pairs of one call are scored once."""
    windows: int = 0
    """Sequences the model ran on: one for each scored pair, or one for each window of a long passage."""
    windowed_pairs: int = 0
    """Scored pairs whose passage was read in several windows."""
    tokens: int = 0
    """Real tokens the model read, special tokens included."""
    computed_tokens: int = 0
    """Token positions computed, padding included."""
    padding_fraction: float = 0.0
    """Share of the computed positions that was padding, 0 to 1."""
    tokens_per_second: float = 0.0
    """Real tokens over the seconds spent scoring (encoding included)."""
    forward_passes: int = 0
    seconds: float = 0.0
    """Seconds spent scoring."""
    truncated_pairs: int = 0
    """Scored pairs whose passage was not read to its end."""
    truncated_tokens: int = 0
    """Tokens of scored pairs' passages that were not read."""
    truncated_queries: int = 0
    """Scored pairs whose query was not read to its end."""
    cached_pairs: int = 0
    """Pairs whose score was remembered from an earlier call (`score_cache`)."""
    pruned_pairs: int = 0
    """Pairs that left a ranking before the last layer (`progressive`)."""
    oom_backoffs: int = 0
    """Times the token budget was halved because a device ran out of memory."""
    worker_restarts: int = 0
    max_batch_tokens: int = 0
    """The token budget in force now."""
    family: str = ""
    layout: str = ""
    """How pairs share a forward pass: "packed" (no padding), "padded" or "single"."""
    load_seconds: dict[str, float] = field(default_factory=dict)
    """Where the start-up went: seconds by step ("imports", "tokenizer", "weights", ...)."""
    devices: tuple[DeviceStats, ...] = ()
    requests: int = 0
    """HTTP requests sent to a server, retries included."""
    retries: int = 0
    """Requests that were repeated because the server was busy or out of reach."""
    calls: int = 0
    """Calls of `score`, `rank`, `rank_many`, `score_layers` and their async twins that have begun."""
    cancelled_calls: int = 0
    """Calls whose caller left before the answer: a cancelled task, or an interrupt."""
    errors: dict[str, int] = field(default_factory=dict)
    """Calls that ended with an error, by the name of its class, such as "InputError" or "WorkerTimeout"."""
    call_seconds: dict[str, Histogram] = field(default_factory=dict)
    """How long calls took, waiting included, by how they ended: "ok", "error" or "cancelled"."""
    calls_in_flight: int = 0
    """Calls that have begun and not ended, now."""
    pairs_in_flight: int = 0
    """Pairs of the calls in flight."""
    waiting_calls: int = 0
    """Of the calls in flight, those of which no worker has taken up any pair: the depth of the queue. Of a
    server's reranker: those that wait for one of `max_concurrency` turns to ask."""
    model: str = ""


_ADDED = (
    "pairs",
    "scored_pairs",
    "windows",
    "windowed_pairs",
    "tokens",
    "computed_tokens",
    "forward_passes",
    "seconds",
    "truncated_pairs",
    "truncated_tokens",
    "truncated_queries",
    "cached_pairs",
    "pruned_pairs",
    "oom_backoffs",
)


def add(one: RerankStats, other: RerankStats) -> RerankStats:
    """Return the figures of two workers together.

    Work and speeds are added up, for workers run side by side; the budget is the smaller one,
    and each step of the load that of the slower one.
    """
    if not other.family:
        return one
    if not one.family:
        return other
    total = {name: getattr(one, name) + getattr(other, name) for name in _ADDED}
    steps = dict.fromkeys((*one.load_seconds, *other.load_seconds), 0.0)
    slower = {step: max(one.load_seconds.get(step, 0.0), other.load_seconds.get(step, 0.0)) for step in steps}
    return replace(
        one,
        **total,
        padding_fraction=1 - total["tokens"] / total["computed_tokens"] if total["computed_tokens"] else 0.0,
        tokens_per_second=one.tokens_per_second + other.tokens_per_second,
        max_batch_tokens=min(one.max_batch_tokens, other.max_batch_tokens),
        load_seconds=slower,
    )


def lives(earlier: RerankStats, now: RerankStats) -> RerankStats:
    """Return the figures of one worker that was started anew: the work of all its lives, and the state of this one.

    Args:
        earlier: The work of the lives that have ended.
        now: Of the life in being; without a family there is none.
    """
    if not now.family or not earlier.family:
        return add(earlier, now)
    total = add(earlier, now)
    speed = total.tokens / total.seconds if total.seconds else 0.0
    return replace(total, tokens_per_second=speed, max_batch_tokens=now.max_batch_tokens, load_seconds=now.load_seconds)
