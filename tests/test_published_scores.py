"""The scores that the model cards publish, from the published weights: needs the hub, and gigabytes."""

from __future__ import annotations

import pytest

from flag_rerank_integrations import Reranker

PANDA = (
    "The giant panda (Ailuropoda melanoleuca), sometimes called a panda bear or simply panda, "
    "is a bear species endemic to China."
)
PAIRS = [("query", "passage"), ("what is panda?", "hi"), ("what is panda?", PANDA)]
# In half precision, which is how they were made.
PUBLISHED = {
    "BAAI/bge-reranker-large": [-1.5263671875, -5.60546875, 5.76171875],
    "BAAI/bge-reranker-v2-m3": [-5.65234375, -8.1875, 5.26171875],
}
HALF_PRECISION = 0.03


@pytest.mark.hub
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("model", PUBLISHED)
def test_scores_are_the_published_ones(model: str) -> None:
    with Reranker(model, dtype="float32") as reranker:
        assert reranker.score(PAIRS) == pytest.approx(PUBLISHED[model], abs=HALF_PRECISION)


@pytest.mark.hub
@pytest.mark.timeout(3600)
def test_the_layerwise_score_is_the_published_one() -> None:
    with Reranker("BAAI/bge-reranker-v2-minicpm-layerwise", dtype="float32", cutoff_layer=28) as reranker:
        assert reranker.score(PAIRS[:1]) == pytest.approx([-7.03125], abs=HALF_PRECISION)
