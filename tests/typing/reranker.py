"""The package's own names as type checkers read them. Checked by pyright in `.ci/run`, never run."""

from __future__ import annotations

from pathlib import Path

import torch
from typing_extensions import assert_type

import flag_rerank_integrations
from flag_rerank_integrations import (
    RankedPassage,
    RayOptions,
    RemoteConfig,
    RemoteReranker,
    RerankConfig,
    Reranker,
    RerankStats,
)
from flag_rerank_integrations.corpus import CorpusSummary, rerank_corpus
from flag_rerank_integrations.errors import RerankError, WorkerDied, WorkerTimeout
from flag_rerank_integrations.reranker_source import RerankerLike


def options_in_every_form() -> None:
    Reranker()
    Reranker(Path("model"), cache_dir=Path("cache"))
    Reranker("model", device=0, dtype=torch.float16, max_length=512, normalize=True)
    Reranker("model", device=["cuda:0", 1, torch.device("cpu")], dtype="bfloat16")
    Reranker("model", long_passages="windows", window_overlap=0.5, window_aggregation="mean", max_windows=8)
    Reranker("model", family="lightweight", progressive=[(8, 0.5)], compress_ratio=2, compress_layers=[8, 16])
    Reranker("model", ray={"num_workers": 4})
    Reranker("model", ray=RayOptions(num_workers=4, num_gpus=0.5))


def options_that_do_not_exist() -> None:
    Reranker("model", devise="cpu")  # pyright: ignore[reportCallIssue]
    Reranker("model", "cpu")  # pyright: ignore[reportCallIssue]
    Reranker(3)  # pyright: ignore[reportArgumentType]
    Reranker("model", max_length="long")  # pyright: ignore[reportArgumentType]
    Reranker("model", quantization="int2")  # pyright: ignore[reportArgumentType]
    Reranker("model", long_passages="window")  # pyright: ignore[reportArgumentType]
    RerankConfig(devise="cpu")  # pyright: ignore[reportCallIssue]
    RemoteReranker("http://localhost", 3)  # pyright: ignore[reportCallIssue]
    RemoteReranker()  # pyright: ignore[reportCallIssue]


def scoring(reranker: Reranker) -> None:
    assert_type(reranker.score([("query", "passage")]), list[float])
    assert_type(reranker.score_layers([("query", "passage")], [8, 16]), dict[int, list[float]])
    reranker.score(["query", "passage"])  # pyright: ignore[reportArgumentType]
    reranker.score([("query", b"passage")])  # pyright: ignore[reportArgumentType]


def ranking(reranker: Reranker | RemoteReranker) -> None:
    ranked = reranker.rank("query", ("one", "other"), top_n=3, score_threshold=0.5)
    assert_type(ranked, list[RankedPassage])
    assert_type(ranked[0].index, int)
    assert_type(ranked[0].score, float)
    assert_type(ranked[0].truncated_tokens, int | None)
    assert_type(ranked[0].layer, int | None)
    assert_type(reranker.rank_many([("query", ["passage"])]), list[list[RankedPassage]])
    reranker.rank("query", ["passage"], top_n="3")  # pyright: ignore[reportArgumentType]
    reranker.rank("query", [b"passage"])  # pyright: ignore[reportArgumentType]
    reranker.rank(["query"], "passage")  # pyright: ignore[reportArgumentType]
    ranked[0].score = 1.0  # pyright: ignore[reportAttributeAccessIssue]


async def asynchronous(reranker: Reranker | RemoteReranker) -> None:
    assert_type(await reranker.ascore([("query", "passage")]), list[float])
    assert_type(await reranker.arank("query", ["passage"]), list[RankedPassage])
    assert_type(await reranker.arank_many([("query", ["passage"])]), list[list[RankedPassage]])


def lifetime(path: str) -> None:
    with Reranker(path) as reranker:
        assert_type(reranker, Reranker)
        assert_type(reranker.config, RerankConfig)
        assert_type(reranker.stats(), RerankStats)
        assert_type(reranker.stats().load_seconds, dict[str, float])
    assert_type(reranker.close(), None)


async def asynchronous_lifetime(url: str) -> None:
    async with RemoteReranker(url) as reranker:
        assert_type(reranker, RemoteReranker)
        assert_type(reranker.config, RemoteConfig)


def configs() -> None:
    config = RerankConfig(model="model", device="cpu")
    RerankConfig(Path("model"), device=["cuda:0", 2, torch.device("cpu")], dtype=torch.float16, progressive=[(8, 0.5)])
    assert_type(Reranker.from_config(config, start=False), Reranker)
    assert_type(config.replace(device="cuda:0"), RerankConfig)
    assert_type(RerankConfig.from_json(config.to_json()), RerankConfig)
    assert_type(config.device, str | tuple[str, ...])
    Reranker.from_config(RemoteConfig(url="http://localhost"))  # pyright: ignore[reportArgumentType]
    config.device = "cpu"  # pyright: ignore[reportAttributeAccessIssue]


def shared(reranker: Reranker, remote: RemoteReranker) -> list[RerankerLike]:
    return [reranker, remote]


def whole_corpora(config: RerankConfig) -> None:
    assert_type(rerank_corpus("in", "out", config=config), CorpusSummary)


def errors(error: RerankError) -> None:
    if isinstance(error, WorkerDied | WorkerTimeout):
        assert_type(error, WorkerDied | WorkerTimeout)


def names() -> None:
    assert_type(flag_rerank_integrations.__version__, str)
