"""From logits to scores to rankings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.errors import WorkerError
from flag_rerank_integrations.pairs import ScoredPairs
from flag_rerank_integrations.results import RankedPassage
from flag_rerank_integrations.truncation import warn_of_truncation

__all__ = ["rankings_of", "scores_by_layer", "scores_of", "sigmoid"]


def scores_of(scored: ScoredPairs, config: RerankConfig) -> list[float]:
    """Check the logits of one call and bring them into the form that was asked for.

    Raises:
        WorkerError: A logit is not finite: that is a fault, and never a rank.
    """
    warn_of_truncation(scored.truncated_tokens, config)
    for position, logit in enumerate(scored.logits):
        if not math.isfinite(logit):
            msg = (
                f"The model's score of pair {position} is not a number ({logit}). "
                f"Half precision may have overflowed: try dtype='float32'. If it is that already, the model is broken."
            )
            raise WorkerError(msg)
    return [sigmoid(logit) for logit in scored.logits] if config.normalize else scored.logits


def scores_by_layer(scored: ScoredPairs, config: RerankConfig, layers: Sequence[int]) -> dict[int, list[float]]:
    """Cut an answer that has the scores of several layers, one layer after the other.

    Raises:
        RerankError: As `scores_of`.
    """
    count = len(scored.logits) // len(layers)
    rows = (slice(row * count, (row + 1) * count) for row in range(len(layers)))
    whole = ScoredPairs(scored.logits, scored.truncated_tokens[:count])
    scores = scores_of(whole, config)
    return {layer: scores[row] for layer, row in zip(layers, rows, strict=True)}


def rankings_of(
    scores: Sequence[float],
    scored: ScoredPairs,
    counts: Sequence[int],
    top_n: int | None,
    score_threshold: float | None,
) -> list[list[RankedPassage]]:
    """Cut the scores of one call into one ranking for each request.

    Args:
        scores: The scores of all requests, one after the other.
        scored: The answer they come from: what was cut of each passage, and how far it got.
        counts: How many passages each request has.
        top_n: How many passages a ranking has at most.
        score_threshold: The least score in a ranking.
    """
    rankings, first = [], 0
    for count in counts:
        part = slice(first, first + count)
        layers = None if scored.layers is None else scored.layers[part]
        rankings.append(_ranking(scores[part], scored.truncated_tokens[part], layers, top_n, score_threshold))
        first += count
    return rankings


def _ranking(
    scores: Sequence[float],
    truncated: Sequence[int | None],
    layers: Sequence[int] | None,
    top_n: int | None,
    score_threshold: float | None,
) -> list[RankedPassage]:
    """Sort by how far a passage got, then by score, best first; Python's sort keeps the order of equals."""
    kept = [i for i, score in enumerate(scores) if score_threshold is None or score >= score_threshold]
    if layers is None:
        kept.sort(key=lambda i: -scores[i])
        return [RankedPassage(i, scores[i], truncated[i]) for i in kept[:top_n]]
    kept.sort(key=lambda i: (-layers[i], -scores[i]))
    return [RankedPassage(i, scores[i], truncated[i], layers[i]) for i in kept[:top_n]]


def sigmoid(logit: float) -> float:
    """Return 1 / (1 + exp(-logit)) in float64, without overflow."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    power = math.exp(logit)
    return power / (1 + power)
