"""From logits to scores to rankings."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.errors import InputError, WorkerError
from flag_rerank_integrations.pairs import ScoredPairs
from flag_rerank_integrations.results import RankedPassage

__all__ = ["rankings_of", "scores_of", "sigmoid"]

logger = logging.getLogger(__name__)


def scores_of(scored: ScoredPairs, config: RerankConfig) -> list[float]:
    """Check the logits of one call and bring them into the form that was asked for.

    Raises:
        InputError: A passage was too long, with `long_passages="error"`.
        WorkerError: A logit is not finite: that is a fault, and never a rank.
    """
    _check_truncation(scored.truncated_tokens, config)
    for position, logit in enumerate(scored.logits):
        if not math.isfinite(logit):
            msg = (
                f"The model's score of pair {position} is not a number ({logit}). "
                f"Half precision may have overflowed: try dtype='float32'."
            )
            raise WorkerError(msg)
    return [sigmoid(logit) for logit in scored.logits] if config.normalize else scored.logits


def rankings_of(
    scores: Sequence[float],
    truncated_tokens: Sequence[int | None],
    counts: Sequence[int],
    top_n: int | None,
    score_threshold: float | None,
) -> list[list[RankedPassage]]:
    """Cut the scores of one call into one ranking for each request.

    Args:
        scores: The scores of all requests, one after the other.
        truncated_tokens: What was cut of each passage; None where that is not known.
        counts: How many passages each request has.
        top_n: How many passages a ranking has at most.
        score_threshold: The least score in a ranking.
    """
    rankings, first = [], 0
    for count in counts:
        part = slice(first, first + count)
        rankings.append(_ranking(scores[part], truncated_tokens[part], top_n, score_threshold))
        first += count
    return rankings


def _check_truncation(truncated_tokens: Sequence[int | None], config: RerankConfig) -> None:
    """Say once a call what was not read, or refuse it where that was asked for."""
    cut = [tokens for tokens in truncated_tokens if tokens]
    if not cut:
        return
    said = f"{len(cut)} of {len(truncated_tokens)} passages are longer than fits (by {max(cut)} tokens at most)"
    if config.long_passages == "error":
        msg = f"{said}. Raise max_length, split them, or use long_passages='truncate'."
        raise InputError(msg)
    logger.warning("%s: their ends were not read.", said)


def _ranking(
    scores: Sequence[float], truncated: Sequence[int | None], top_n: int | None, score_threshold: float | None
) -> list[RankedPassage]:
    """Sort by score, best first; Python's sort keeps the order of equal scores."""
    kept = [i for i, score in enumerate(scores) if score_threshold is None or score >= score_threshold]
    kept.sort(key=lambda i: -scores[i])
    return [RankedPassage(i, scores[i], truncated[i]) for i in kept[:top_n]]


def sigmoid(logit: float) -> float:
    """Return 1 / (1 + exp(-logit)) in float64, without overflow."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    power = math.exp(logit)
    return power / (1 + power)
