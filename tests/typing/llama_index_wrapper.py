"""The LlamaIndex wrapper as type checkers read it. Checked by pyright in `.ci/run`, never run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from llama_index.core.callbacks import CallbackManager
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from typing_extensions import assert_type

from flag_rerank_integrations import RemoteConfig, RerankConfig, Reranker
from flag_rerank_integrations.llama_index import FlagRerankPostprocessor
from flag_rerank_integrations.reranker_source import RerankerLike
from llama_index.postprocessor.flag_rerank import FlagRerankPostprocessor as FromTheNamespace


def making(live: Reranker) -> None:
    FlagRerankPostprocessor()
    FlagRerankPostprocessor(model="model", device=("cuda:0", "cuda:1"), top_n=5, score_threshold=0.5, normalize=True)
    FlagRerankPostprocessor(reranker=live, score_key="score", metadata_mode=MetadataMode.NONE)
    FlagRerankPostprocessor(remote=RemoteConfig(url="http://localhost:8080"), keep_retrieval_score=True)
    FlagRerankPostprocessor(model=Path("model"), device=["cuda:0", 2, torch.device("cpu")], dtype=torch.float16)
    FlagRerankPostprocessor(device=0, compress_layers=[8, 16], callback_manager=CallbackManager())
    FlagRerankPostprocessor(device=1.5)  # pyright: ignore[reportArgumentType]
    FlagRerankPostprocessor(quantization="int2")  # pyright: ignore[reportArgumentType]
    FlagRerankPostprocessor(topn=5)  # pyright: ignore[reportCallIssue]
    FlagRerankPostprocessor(top_n="5")  # pyright: ignore[reportArgumentType]
    FlagRerankPostprocessor(metadata_mode="none")  # pyright: ignore[reportArgumentType]
    FlagRerankPostprocessor("model")  # pyright: ignore[reportCallIssue]


def postprocessing(postprocessor: FlagRerankPostprocessor, nodes: list[NodeWithScore]) -> None:
    base: BaseNodePostprocessor = postprocessor
    assert_type(base.postprocess_nodes(nodes, QueryBundle("query")), list[NodeWithScore])
    assert_type(postprocessor.postprocess_nodes(nodes, query_str="query"), list[NodeWithScore])
    assert_type(postprocessor.top_n, int | None)
    assert_type(postprocessor.device, str | tuple[str, ...])
    assert_type(postprocessor.config, RerankConfig | RemoteConfig | None)
    assert_type(postprocessor.warm_up(), RerankerLike)
    assert_type(postprocessor.close(), None)
    postprocessor.postprocess_nodes(["passage"], query_str="query")  # pyright: ignore[reportArgumentType]


async def postprocessing_later(postprocessor: FlagRerankPostprocessor, nodes: list[NodeWithScore]) -> None:
    assert_type(await postprocessor.apostprocess_nodes(nodes, query_str="query"), list[NodeWithScore])
    assert_type(await postprocessor.awarm_up(), RerankerLike)


def storing(postprocessor: FlagRerankPostprocessor) -> None:
    stored = postprocessor.to_dict()
    assert_type(stored, dict[str, Any])
    assert_type(FlagRerankPostprocessor.from_dict(stored), FlagRerankPostprocessor)
    assert_type(postprocessor.model_copy(update={"top_n": 3}), FlagRerankPostprocessor)


def one_class(postprocessor: FlagRerankPostprocessor) -> FromTheNamespace:
    return postprocessor
