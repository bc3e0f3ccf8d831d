"""ONNX files in a plain onnxruntime session, exported first where the model is a torch checkpoint."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import BenchModel, cache_directory
from benchmarks.workloads import MAX_LENGTH

__all__ = ["PlainSession", "graph_of"]


class PlainSession:
    """A session with onnxruntime's defaults and the model's own tokenizer.

    Args:
        model: An encoder.
        batch_size: Pairs in one run.
    """

    def __init__(self, model: BenchModel, batch_size: int) -> None:
        import onnxruntime
        import torch

        from benchmarks.reference import tokenizer_of

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session: Any = onnxruntime.InferenceSession(
            str(graph_of(model)), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {node.name for node in self._session.get_inputs()}
        self._tokenizer = tokenizer_of(model)
        self._batch_size = batch_size
        self.computed_tokens = 0

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Score pairs in batches, in the order given."""
        scores: list[float] = []
        for start in range(0, len(pairs), self._batch_size):
            batch = list(pairs[start : start + self._batch_size])
            inputs = self._tokenizer(
                batch, padding=True, truncation="only_second", max_length=MAX_LENGTH, return_tensors="np"
            )
            self.computed_tokens += inputs["input_ids"].size
            scores.extend(self.run(dict(inputs)))
        return scores

    def run(self, inputs: dict[str, Any]) -> list[float]:
        """Run one batch of arrays, each of shape (pairs, tokens)."""
        named = {name: array.astype(np.int64) for name, array in inputs.items() if name in self._inputs}
        (logits, *_) = self._session.run(None, named)
        return [float(logit) for logit in np.ravel(logits)]

    def close(self) -> None:
        """Free the session."""
        self._session = None


def graph_of(model: BenchModel) -> Path:
    """Return a model's ONNX file; that of a torch checkpoint is exported once and kept."""
    if model.kind == "onnx":
        return Path(model.path) / "model.onnx"
    target = cache_directory() / "onnx" / Path(model.path).name
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as part:
            (Path(part) / "graph").mkdir()
            _export(model.path, Path(part) / "graph" / "model.onnx")
            shutil.move(Path(part) / "graph", target)
    return target / "model.onnx"


def _export(source: str, target: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    network = AutoModelForSequenceClassification.from_pretrained(source, attn_implementation="eager").eval()
    sample = AutoTokenizer.from_pretrained(source)([("a", "b c"), ("b", "a c")], return_tensors="pt")
    axes = {0: torch.export.Dim("pairs"), 1: torch.export.Dim("tokens", max=MAX_LENGTH)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(
            network,
            kwargs=dict(sample),
            f=target,
            input_names=list(sample),
            output_names=["logits"],
            dynamic_shapes=dict.fromkeys(sample, axes),
            dynamo=True,
            verbose=False,
        )
