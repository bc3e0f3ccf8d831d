"""What a length is worth in the order of the results: nDCG@10 of judged queries."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Change", "Quality"]


@dataclass(frozen=True, slots=True)
class Change:
    """A mean difference over queries, with its 95% interval from a paired bootstrap."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Show it as in "-0.012 (-0.030 to +0.004)"."""
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


@dataclass(frozen=True, slots=True)
class Quality:
    """nDCG@10 of judged queries at one length."""

    max_length: int
    ndcg: float | None = None
    """Of the re-ranked candidates; None where they could not be scored."""
    first_stage: float | None = None
    """Of the candidates as they came."""
    gain: Change | None = None
    """Over the first stage."""
    cost: Change | None = None
    """Against the longest length that was judged; None for that length itself."""
    queries: int = 0
    failure: str | None = None
