"""How far do half precision and quantized weights move the scores of a real model, and what do they save?

    python -m benchmarks.precision --model MODEL_DIRECTORY --data COLLECTION --device cuda:0

Scores the BM25 candidates of some questions of a judged collection (BEIR layout) in float32 and in every other
precision that runs on the device, and compares logits and rankings. `--quantize-on-cpu` runs torchao and bitsandbytes
on a CPU, where the package itself refuses them: for their numbers, which do not depend on the device, not for speed.
Prints a table and writes `benchmarks/results/precision_*.json`.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.judged import first_stage
from flag_rerank_integrations import Reranker
from flag_rerank_integrations.evaluation import read_texts
from flag_rerank_integrations.families import quantization

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One precision against float32."""

    name: str
    mean_deviation: float
    worst_deviation: float
    same_first: float
    same_top_five: float
    distinct: int
    weights_mib: float
    seconds: float


def main() -> None:
    """Measure, print, write."""
    options = parse()
    logging.getLogger("flag_rerank_integrations").setLevel(logging.ERROR)
    if options.quantize_on_cpu:
        quantization._check_device = lambda *_: None  # noqa: SLF001 - see above
    requests = read(options.data, options.queries, options.depth)
    ways: dict[str, dict[str, Any]] = {"float32": {"dtype": "float32"}}
    ways |= {name: {"dtype": name} for name in ("bfloat16", "float16")}
    if options.quantize_on_cpu or options.device != "cpu":
        ways |= {f"{bits}, {dtype}": {"quantization": bits, "dtype": dtype} for bits, dtype in _QUANTIZED}
    rows: list[Row] = []
    exact: list[list[float]] = []
    for name, way in ways.items():
        scores, mib, seconds = run(options, requests, way)
        exact = exact or scores
        rows.append(compare(name, exact, scores, mib, seconds))
        print(rows[-1], flush=True)
    print_table(rows)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"precision_{Path(options.model).name}_{options.device.replace(':', '')}.json"
    setting = {"model": Path(options.model).name, "device": options.device, "collection": options.data.name}
    setting["pairs"] = str(sum(len(found) for _, found in requests))
    path.write_text(json.dumps({**setting, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")
    print(f"written to {path}")


_QUANTIZED = (("int8", "float32"), ("int8", "bfloat16"), ("int4", "float32"), ("int4", "bfloat16"))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--quantize-on-cpu", action="store_true")
    return parser.parse_args()


def read(folder: Path, count: int, depth: int) -> list[tuple[str, list[str]]]:
    """Return questions, spread over the file, with their first BM25 candidates."""
    found, queries = first_stage(folder), read_texts(folder / "queries.jsonl")
    chosen = list(queries)[:: max(1, len(queries) // count)][:count]
    candidates = {query: [hit.passage_id for hit in found.get(query, ())[:depth]] for query in chosen}
    texts = read_texts(folder / "corpus.jsonl", only={name for names in candidates.values() for name in names})
    return [(queries[query], [texts[name] for name in names]) for query, names in candidates.items()]


def run(
    options: argparse.Namespace, requests: list[tuple[str, list[str]]], way: dict[str, Any]
) -> tuple[list[list[float]], float, float]:
    """Return the scores of each question's candidates in order, the weights' MiB, and the seconds it took."""
    with Reranker(options.model, device=options.device, max_length=options.max_length, **way) as reranker:
        start = time.perf_counter()
        rankings = reranker.rank_many(requests)
        seconds = time.perf_counter() - start
        model = reranker._executor._scorer._family.model  # type: ignore[union-attr]  # noqa: SLF001 - its size
        mib = weight_bytes(model) / 2**20
    return [[p.score for p in sorted(ranking, key=lambda p: p.index)] for ranking in rankings], mib, seconds


def weight_bytes(model: Any) -> int:  # noqa: ANN401 - transformers' models share no typed base
    """Return the bytes of all weights, the scales of quantized ones included."""
    total = 0
    for weight in model.parameters():
        if hasattr(weight, "__tensor_flatten__"):
            parts, _ = weight.__tensor_flatten__()
            total += sum(getattr(weight, part).nbytes for part in parts)
        else:
            total += weight.nbytes
        state = getattr(weight, "quant_state", None)
        total += state.absmax.nbytes if state is not None else 0
    return total


def compare(name: str, exact: list[list[float]], scores: list[list[float]], mib: float, seconds: float) -> Row:
    """Compare scores with exact ones."""
    deviations = np.abs(np.concatenate(exact) - np.concatenate(scores))
    orders = [
        (np.argsort(-np.array(a), kind="stable"), np.argsort(-np.array(b), kind="stable"))
        for a, b in zip(exact, scores, strict=True)
    ]
    return Row(
        name=name,
        mean_deviation=float(deviations.mean()),
        worst_deviation=float(deviations.max()),
        same_first=float(np.mean([a[0] == b[0] for a, b in orders])),
        same_top_five=float(np.mean([len({*a[:5]} & {*b[:5]}) / 5 for a, b in orders])),
        distinct=len({*np.concatenate(scores).tolist()}),
        weights_mib=mib,
        seconds=seconds,
    )


def print_table(rows: list[Row]) -> None:
    """Print a Markdown table."""
    print(
        "\n| weights, computation | mean deviation | worst | same first | same top 5 | distinct scores "
        "| weights, MiB | seconds |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row.name} | {row.mean_deviation:.4f} | {row.worst_deviation:.4f} | {row.same_first:.0%} "
            f"| {row.same_top_five:.0%} | {row.distinct} | {row.weights_mib:.1f} | {row.seconds:.0f} |"
        )


if __name__ == "__main__":
    main()
