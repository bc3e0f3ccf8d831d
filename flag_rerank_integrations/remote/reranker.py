"""The RemoteReranker: a model that a server runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flag_rerank_integrations.base_reranker import BaseReranker
from flag_rerank_integrations.pairs import ScoredPairs
from flag_rerank_integrations.remote.config import RemoteConfig

if TYPE_CHECKING:
    from flag_rerank_integrations.executors import Executor

__all__ = ["RemoteReranker"]


class RemoteReranker(BaseReranker[RemoteConfig]):
    """Scores and ranks passages against queries on a server, with the methods of a `Reranker`.

    One instance may be used from many threads and event loops at once; they share its
    connections. `RankedPassage.truncated_tokens` is None: no server tells what it cut.

    Args:
        url: The server's address, or that of its endpoint; see `RemoteConfig`.
        **options: See `RemoteConfig`.

    Raises:
        ConfigError: An option is wrong, or the server cannot follow it.
        WorkerError: The server cannot be reached.
    """

    _options_type = RemoteConfig
    _started_word = "connected"

    def __init__(self, url: str, **options: Any) -> None:  # noqa: ANN401 - RemoteConfig checks them
        self._init(RemoteConfig.from_dict({"url": url, **options}))
        self.start()

    def _launch(self) -> Executor:
        from flag_rerank_integrations.remote.executor import RemoteExecutor

        return RemoteExecutor(self._config)

    def _scores(self, scored: ScoredPairs) -> list[float]:
        return scored.logits  # the executor has brought them into the form that was asked for

    def _place(self) -> str:
        return f"at {self._config.url!r}"
