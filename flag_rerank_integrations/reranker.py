"""The Reranker: a model on the devices you choose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flag_rerank_integrations.base_reranker import BaseReranker
from flag_rerank_integrations.config import DEFAULT_MODEL, RerankConfig
from flag_rerank_integrations.pairs import ScoredPairs
from flag_rerank_integrations.ranking import scores_of

if TYPE_CHECKING:
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

    def __init__(self, model: str = DEFAULT_MODEL, **options: Any) -> None:  # noqa: ANN401 - RerankConfig checks them
        self._init(RerankConfig.from_dict({"model": model, **options}))
        self.start()

    def _launch(self) -> Executor:
        from flag_rerank_integrations import executors

        return executors.start(self._config)

    def _scores(self, scored: ScoredPairs) -> list[float]:
        return scores_of(scored, self._config)

    def _place(self) -> str:
        return f"{self._config.model!r} on {self._config.device!r}"
