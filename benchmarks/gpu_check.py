"""One command on a machine with an accelerator: parity, memory, speed and the right device, for every family.

Random weights of the true shapes; a JSON file with all figures. `--small` tries it out on any machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from benchmarks.machine import describe
from benchmarks.true_shapes import FAMILIES, build
from benchmarks.workloads import Workload, fixed_request
from flag_rerank_integrations import Reranker

Pairs = list[tuple[str, str]]
_RESULTS = Path(__file__).parent / "results"
_UNTOUCHED = """
import sys, torch
from flag_rerank_integrations import Reranker
with Reranker(sys.argv[1], device=sys.argv[2]) as reranker:
    reranker.score([("a query", "a passage")])
    print(torch.cuda.memory_allocated(0), torch.cuda.memory_reserved(0))
"""


def main() -> None:
    """Check every family, one after the other, and write what was found."""
    options = _options()
    device = options.device
    result: dict[str, Any] = {
        "machine": describe(torch.get_num_threads()),
        "device": _named(device),
        "small": options.small,
    }
    result["versions"] = {"torch": torch.__version__}
    result["matrix product, TFLOP/s"] = _product_rate(device, small=options.small)
    with tempfile.TemporaryDirectory(dir=options.cache) as scratch:
        for family in options.families:
            path = build(family, Path(scratch) / family, device, small=options.small)
            try:
                result[family] = _check(family, str(path), device, options)
            except Exception as error:  # noqa: BLE001 - one family's failure is a finding, not the end
                result[family] = {"failed": f"{type(error).__name__}: {error}"}
            print(family, json.dumps(result[family], indent=1), flush=True)
    target = options.out or _RESULTS / f"gpu_check_{result['device'].replace(' ', '_')}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written: {target.name}")


def _check(family: str, path: str, device: str, options: argparse.Namespace) -> dict[str, Any]:
    """Check one family.

    Args:
        family: Its name.
        path: The checkpoint.
        device: Where to run it.
        options: Of the command.
    """
    workload, long = _workload(path, options)
    found: dict[str, Any] = {"parity": _parity(family, path, device, workload[:24])}
    _reset_peak(device)
    start = time.perf_counter()
    with Reranker(path, device=device, max_length=1024) as reranker:
        found["load seconds"] = round(time.perf_counter() - start, 2)
        stats = reranker.stats()
        found |= {"layout": stats.layout, "token budget": stats.max_batch_tokens}
        found["weights, GiB"] = _peak(device)
        found["mixed lengths"] = _speed(reranker, workload, options.repeats)
        found["512 tokens"] = _speed(reranker, long, options.repeats)
        found["peak, GiB"] = _peak(device)
        found["memory back-offs"] = reranker.stats().oom_backoffs
    found["other devices"] = _others(path, device)
    found["FlagEmbedding"] = _flag_embedding(family, path, device, workload)
    return found


def _parity(family: str, path: str, device: str, pairs: Pairs) -> dict[str, float | str]:
    """Compare batches with pairs alone, the default data type with float32, and float32 with float64."""
    with Reranker(path, device=device, dtype="float32") as reranker:
        packed = reranker.score(pairs)
        alone = [reranker.score([pair])[0] for pair in pairs]
    with Reranker(path, device=device) as reranker:
        default = reranker.score(pairs)
    found: dict[str, float | str] = {
        "scores, from": min(packed),
        "scores, to": max(packed),
        "float32, batch against alone": _difference(packed, alone),
        "default data type against float32": _difference(default, packed),
    }
    if family in ("encoder", "causal"):
        found["float32 against float64, padded, by transformers"] = _difference(
            packed, _in_float64(path, device, pairs)
        )
    return found


def _in_float64(path: str, device: str, pairs: Pairs) -> list[float]:
    """Score pairs one by one with the model as transformers runs it, in float64."""
    with Reranker(path, device=device, dtype="float32") as reranker:
        family: Any = reranker._executor._scorer._family  # type: ignore[union-attr]  # noqa: SLF001 - see above
        family.use("padded")
        encoded = family.encode(pairs)
        family.model.double()
        head = family.model.get_output_embeddings()
        if head is not None:
            head.float()  # a causal family's own head, one row, works in float32 whatever comes
        with torch.inference_mode():
            return [float(family._run_padded([pair])[0]) for pair in encoded]  # noqa: SLF001 - as above


def _speed(reranker: Reranker, pairs: Pairs, repeats: int) -> dict[str, float]:
    """Time whole calls, texts in and scores out."""
    reranker.score(pairs)
    before = reranker.stats()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        reranker.score(pairs)
        seconds.append(time.perf_counter() - start)
    after = reranker.stats()
    tokens = (after.tokens - before.tokens) / repeats
    taken = median(seconds)
    return {
        "pairs": len(pairs),
        "pairs/s": len(pairs) / taken,
        "tokens/s": tokens / taken,
        "mean tokens": tokens / len(pairs),
    }


def _flag_embedding(family: str, path: str, device: str, pairs: Pairs) -> dict[str, float | str]:
    """Time the published package with its defaults, where it is installed and loads."""
    if find_spec("FlagEmbedding") is None:
        return {"not measured": "it is not installed"}
    try:
        import FlagEmbedding

        kind = {"encoder": "FlagReranker", "causal": "FlagLLMReranker", "layerwise": "LayerWiseFlagLLMReranker"}
        peer = getattr(FlagEmbedding, kind.get(family, "LightWeightFlagLLMReranker"))(
            path, devices=[device], use_bf16=True
        )
        peer.compute_score(pairs[:8])
        start = time.perf_counter()
        peer.compute_score(pairs)
        return {"pairs/s": len(pairs) / (time.perf_counter() - start)}
    except Exception as error:  # noqa: BLE001 - that it fails is the finding
        return {"failed": f"{type(error).__name__}: {str(error)[:200]}"}


def _others(path: str, device: str) -> str:
    """Tell whether a model on the last of several GPUs leaves the first one alone; a process of its own looks."""
    count = torch.cuda.device_count() if device.startswith("cuda") else 0
    if count < 2:
        return "not checked: there is one device"
    command = [sys.executable, "-c", _UNTOUCHED, path, f"cuda:{count - 1}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    allocated = done.stdout.split()
    return "cuda:0 untouched" if allocated == ["0", "0"] else f"cuda:0 has {done.stdout or done.stderr[-300:]}"


def _workload(path: str, options: argparse.Namespace) -> tuple[Pairs, Pairs]:
    """Make pairs of mixed lengths, and pairs of nearly 512 tokens."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    queries, passages = (2, 20) if options.small else (20, 100)
    mixed = Workload(queries, passages).requests(tokenizer)
    query, texts = fixed_request(tokenizer, 12, 4 if options.small else 400, 490)
    return [(query, text) for query, texts in mixed for text in texts], [(query, text) for text in texts]


def _difference(left: list[float], right: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(left, right, strict=True))


def _product_rate(device: str, *, small: bool) -> float:
    """Return the rate of large matrix products in bfloat16, in 10^12 operations a second."""
    size = 512 if small else 8192
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(10):
        _wait(device)
        start = time.perf_counter()
        torch.mm(left, right)
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / median(seconds) / 1e12


def _wait(device: str) -> None:
    if not device.startswith("cpu"):
        getattr(torch, device.split(":", maxsplit=1)[0]).synchronize(device)


def _reset_peak(device: str) -> None:
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: str) -> float | None:
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if device.startswith("cuda") else None


def _named(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="toy shapes, to try the script out")
    parser.add_argument("--cache", type=Path, help="directory for the checkpoints, up to 35 GB (default: temporary)")
    parser.add_argument("--out", type=Path, help="the JSON file (default: benchmarks/results/)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
