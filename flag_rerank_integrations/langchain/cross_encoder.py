"""Scores for code that asks for LangChain's cross-encoder interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from langchain_core.cross_encoders import BaseCrossEncoder
from typing_extensions import Unpack

from flag_rerank_integrations.inputs import checked_pairs
from flag_rerank_integrations.langchain.options import RerankerOptions
from flag_rerank_integrations.option_types import WrapperOptions

__all__ = ["FlagCrossEncoder"]


class FlagCrossEncoder(RerankerOptions, BaseCrossEncoder):
    """Scores (query, passage) pairs, for `CrossEncoderReranker` and other users of `BaseCrossEncoder`.

    Args:
        **options: The options of `Reranker`, or `reranker=`: see `RerankerOptions`.

    Raises:
        ConfigError: An option has a wrong value.
    """

    _verbs: ClassVar[tuple[str, ...]] = ("score", "ascore")

    if TYPE_CHECKING:  # more forms of an option are taken than its field keeps

        def __init__(self, **options: Unpack[WrapperOptions]) -> None: ...

    def score(self, text_pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Score pairs of texts.

        Args:
            text_pairs: (query, passage) pairs; none gives none, and loads no model.

        Returns:
            One float per pair, in order. It is the logit, or its sigmoid (0 to 1) with `normalize=True`.

        Raises:
            InputError: A pair cannot be scored.
            RerankError: The model cannot be loaded or run; errors.py lists the kinds.
        """
        pairs = checked_pairs(text_pairs)
        return self._reranker().score(pairs) if pairs else []

    async def ascore(self, text_pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Score pairs of texts without blocking the event loop, not even to load the model; see `score`."""
        pairs = checked_pairs(text_pairs)
        return await (await self._areranker()).ascore(pairs) if pairs else []
