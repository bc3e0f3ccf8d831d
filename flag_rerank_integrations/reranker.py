"""The Reranker: a model of your own on devices of your own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from flag_rerank_integrations.base_reranker import BaseReranker
from flag_rerank_integrations.config import DEFAULT_MODEL, RerankConfig
from flag_rerank_integrations.inputs import checked_layers, checked_pairs
from flag_rerank_integrations.option_types import RerankOptions
from flag_rerank_integrations.pairs import SCORE, Pair, ScoredPairs, Task
from flag_rerank_integrations.ranking import scores_by_layer, scores_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from flag_rerank_integrations.executors import Executor

__all__ = ["Reranker"]


class Reranker(BaseReranker[RerankConfig]):
    """Scores and ranks passages against queries with a cross-encoder.

    One instance may be used from many threads and event loops at once: calls share batches,
    and each gets its own scores. Pickling and copying carry the options only; the copy loads
    its model when it is first used.

    Args:
        model: A local directory, a hub id, or "quickstart".
        **options: See `RerankConfig`.

    Raises:
        ConfigError: An option is wrong.
        DeviceError: The device does not exist; nothing was loaded.
        ModelLoadError: The checkpoint is missing, broken, or not a reranker.
    """

    _options_type = RerankConfig

    def __init__(self, model: str | os.PathLike[str] = DEFAULT_MODEL, **options: Unpack[RerankOptions]) -> None:
        self._init(RerankConfig.from_dict({"model": model, **options}))
        self.start()

    def score_layers(self, pairs: Iterable[Pair], layers: Iterable[int]) -> dict[int, list[float]]:
        """Score pairs at several layers of a layerwise or lightweight model, in one pass.

        Args:
            pairs: (query, passage) pairs.
            layers: The layers to read, in any order, as numbers of layers that have run; one that
                occurs twice is read once.

        Returns:
            For each layer, in the order asked for, one float a pair. It is the logit, or its sigmoid
            with `normalize=True`. Scores of different layers do not compare.

        Raises:
            ConfigError: The model has no such layer; the message names those it has.
            RerankError: As in `score`.
        """
        with self._call("score_layers") as call:
            checked, task = checked_pairs(pairs), Task(layers=checked_layers(layers))
            return scores_by_layer(self._wait(call, checked, task), self._config, task.layers)

    async def ascore_layers(self, pairs: Iterable[Pair], layers: Iterable[int]) -> dict[int, list[float]]:
        """Score pairs at several layers without blocking the event loop; see `score_layers`."""
        with self._call("score_layers") as call:
            checked, task = checked_pairs(pairs), Task(layers=checked_layers(layers))
            return scores_by_layer(await self._await(call, checked, task), self._config, task.layers)

    def _launch(self) -> Executor:
        from flag_rerank_integrations import executors

        return executors.start(self._config)

    def _scores(self, scored: ScoredPairs) -> list[float]:
        return scores_of(scored, self._config)

    def _ranking_task(self, counts: Sequence[int]) -> Task:
        return Task(counts=tuple(filter(None, counts))) if self._config.progressive else SCORE

    def _place(self) -> str:
        return f"{self._config.model!r} on {self._config.device!r}"
