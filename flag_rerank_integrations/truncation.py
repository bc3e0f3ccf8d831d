"""What is said of texts that are longer than fits: once, or as an error where that was asked for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.errors import InputError
from flag_rerank_integrations.pairs import EncodedPair, Pair

__all__ = ["TruncationCheck", "warn_of_truncation"]

logger: Final = logging.getLogger(__name__)

_SHOWN_CHARACTERS: Final = 40


class TruncationCheck:
    """Looks at pairs before they are run.

    Args:
        config: Says whether long passages are refused.
    """

    def __init__(self, config: RerankConfig) -> None:
        self._refuses = config.long_passages == "error"
        self._warned_of_query = False

    def __call__(self, pairs: Sequence[Pair], encoded: Sequence[EncodedPair]) -> None:
        """Refuse long passages where that was asked for, and say once that a query was cut.

        Raises:
            InputError: A passage is too long, with `long_passages="error"`.
        """
        for (query, passage), coded in zip(pairs, encoded, strict=True):
            if coded.truncated_tokens and self._refuses:
                msg = (
                    f"The passage {_shown(passage)} is {coded.truncated_tokens} tokens longer than fits. Raise "
                    f"max_length, split it, or use long_passages='windows' or 'truncate'."
                )
                raise InputError(msg)
            if coded.truncated_query_tokens and not self._warned_of_query:
                self._warned_of_query = True
                logger.warning(
                    "The query %s is %d tokens longer than fits: its end is not read. Later ones are only counted.",
                    _shown(query),
                    coded.truncated_query_tokens,
                )


def warn_of_truncation(truncated_tokens: Sequence[int | None], config: RerankConfig) -> None:
    """Say once a call what was not read, and which option would have it read."""
    cut = [tokens for tokens in truncated_tokens if tokens]
    if cut:
        windows = config.long_passages == "windows" and config.window_aggregation != "first"
        logger.warning(
            "%d of %d passages are longer than fits (by %d tokens at most): their ends were not read. "
            "%s would have more of them read.",
            len(cut),
            len(truncated_tokens),
            max(cut),
            f"max_windows above {config.max_windows}" if windows else "long_passages='windows' or a larger max_length",
        )


def _shown(text: str) -> str:
    return repr(f"{text[:_SHOWN_CHARACTERS]}…" if len(text) > _SHOWN_CHARACTERS else text)
