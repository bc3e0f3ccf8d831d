"""A cross-encoder whose worker starts in under a second: an ONNX graph, which needs no torch.

What a pool must survive has nothing to do with the kind of model, and most tests here start workers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tiny_tokenizers import bert_tokenizer


def write(target: Path, *, widths: Sequence[int] = (256,) * 5, positions: int = 256) -> str:
    """Write a model whose score is read off the mean of its tokens after a few dense layers.

    Args:
        target: Directory to make.
        widths: Numbers per token in the embedding and in each layer, which decide time and memory.
        positions: Most tokens of a pair.

    Returns:
        The directory.
    """
    target.mkdir(parents=True)
    tokenizer = bert_tokenizer()
    tokenizer.backend_tokenizer.save(str(target / "tokenizer.json"))
    (target / "config.json").write_text(json.dumps({"max_position_embeddings": positions, "pad_token_id": 0}))
    onnx.save(_graph(len(tokenizer), widths), target / "model.onnx")
    return str(target)


def _graph(vocabulary: int, widths: Sequence[int]) -> onnx.ModelProto:
    generator = np.random.default_rng(0)

    def weights(name: str, scale: float, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(generator.normal(0, scale, shape).astype(np.float32), name)

    # The large head sets scores well apart, as no score may be taken for another.
    tensors = [weights("table", 1, vocabulary, widths[0]), weights("head", 10, widths[-1], 1)]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["hidden 0"])]
    for layer, (width, wider) in enumerate(pairwise(widths)):
        tensors.append(weights(f"dense {layer}", width**-0.5, width, wider))
        nodes.append(helper.make_node("MatMul", [f"hidden {layer}", f"dense {layer}"], [f"sum {layer}"]))
        nodes.append(helper.make_node("Tanh", [f"sum {layer}"], [f"hidden {layer + 1}"]))
    tensors.append(numpy_helper.from_array(np.asarray([1], dtype=np.int64), "tokens"))
    nodes.append(helper.make_node("ReduceMean", [f"hidden {len(widths) - 1}", "tokens"], ["mean"], keepdims=0))
    nodes.append(helper.make_node("MatMul", ["mean", "head"], ["logits"]))
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["pairs", "tokens"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["pairs", 1])
    graph = helper.make_graph(nodes, "light", [ids], [logits], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
