"""Exports small torch models as ONNX graphs, in the layouts that cross-encoders are published in."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

_SMALL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


class _Graph(torch.nn.Module):
    """A model seen as a function of its named inputs, in order, to one tensor."""

    def __init__(self, model: torch.nn.Module, inputs: tuple[str, ...], output: str) -> None:
        super().__init__()
        self.model, self.inputs, self.output = model, inputs, output

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return getattr(self.model(**dict(zip(self.inputs, tensors, strict=True))), self.output)


def export(source: str, target: Path, *, output: str = "logits", file: str = "model.onnx") -> Path:
    """Write the checkpoint in `source` as an ONNX graph with the small files beside it.

    Args:
        source: Directory of a torch checkpoint.
        target: Directory to write to.
        output: "logits" for a cross-encoder, "last_hidden_state" for an embedding model.
        file: The graph's path inside `target`.
    """
    auto = AutoModelForSequenceClassification if output == "logits" else AutoModel
    model = auto.from_pretrained(source, attn_implementation="eager").eval()
    made = AutoTokenizer.from_pretrained(source)([("a", "b c"), ("b", "a c")], return_tensors="pt")
    inputs = tuple(made)
    axes = {0: torch.export.Dim("pairs"), 1: torch.export.Dim("tokens", max=model.config.max_position_embeddings - 2)}
    (target / file).parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(
            _Graph(model, inputs, output),
            tuple(made.values()),
            target / file,
            input_names=inputs,
            output_names=[output],
            dynamic_shapes=((axes,) * len(inputs),),
            dynamo=True,
            verbose=False,
        )
    for name in _SMALL_FILES:
        shutil.copy(Path(source) / name, target / name)
    return target


def torch_scores(source: str, pairs: list[tuple[str, str]]) -> list[float]:
    """Score pairs with transformers alone, one at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(source).eval()
    tokenizer = AutoTokenizer.from_pretrained(source)
    with torch.inference_mode():
        return [model(**tokenizer(*pair, return_tensors="pt")).logits.item() for pair in pairs]


def write_graph(target: Path, *, output: str, per_token: bool = False, width: int = 1) -> None:
    """Put a minimal graph in place of a model's: the mean of the ids, or the ids, times fixed numbers.

    Args:
        target: Directory of the model.
        output: The output's name.
        per_token: Whether there is an output for each token instead of each pair.
        width: Numbers per token or pair.
    """
    row = helper.make_tensor("row", TensorProto.FLOAT, [1, width], [float(i + 1) for i in range(width)])
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [2 if per_token else 1])
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze" if per_token else "ReduceMean", ["numbers", "axis"], ["column"]),
        helper.make_node("MatMul", ["column", "row"], [output]),
    ]
    shape = ["pairs", "tokens", width] if per_token else ["pairs", width]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["pairs", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "minimal", inputs, outputs, [row, axis])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, target / "model.onnx")
