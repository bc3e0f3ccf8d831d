"""What rankings that prune themselves save: floating-point operations and time, counted and measured.

    python benchmarks/progressive.py                      # on the CPU, a quarter of a minute a run
    python benchmarks/progressive.py --device cuda:0 --width 2304 --tokens 512 --passages 100

It ranks made-up passages with models of the published depth and proportions and random weights. Speed and
operations do not depend on what weights are; which passages go on does, so nothing is said of quality.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # the tests' builder writes checkpoints in the published layout

from layered_models import build  # noqa: E402 - the path comes first

from flag_rerank_integrations import RerankConfig, __version__  # noqa: E402 - likewise
from flag_rerank_integrations.devices import resolve  # noqa: E402 - likewise
from flag_rerank_integrations.pairs import SCORE, ScoredPairs, Task  # noqa: E402 - likewise
from flag_rerank_integrations.scorer import Scorer  # noqa: E402 - likewise

STEPS = ((8, 0.5), (20, 0.25))
QUERY = "how many people live in the city of Berlin?"
WORDS = ("panda", "bear", "China", "Berlin", "people", "live", "in", "the", "city", "of", "art", "museum")
RUNS: dict[str, dict[str, dict[str, Any]]] = {
    "layerwise": {
        "all 40 layers": {},
        "cutoff 28": {"cutoff_layer": 28},
        "progressive to 40": {"progressive": STEPS},
        "progressive to 28": {"progressive": STEPS, "cutoff_layer": 28},
    },
    "lightweight": {
        "all 42 layers": {},
        "compressed by 4 at 8": {"compress_ratio": 4},
        "progressive to 42": {"progressive": STEPS},
        "progressive, compressed": {"progressive": STEPS, "compress_ratio": 4},
    },
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    family: str
    run: str
    gflops: float
    seconds: float
    """The least of the repetitions, encoding included: others that use the machine only ever add to it."""
    processor_seconds: float
    """The same, of this process on all its cores."""
    went_to_the_end: int
    largest_difference: float | None
    """Between the survivors' scores and those of a full run with the same cutoff and compression."""


def shape(family: str, width: int) -> dict[str, int]:
    """The published proportions at another width: MiniCPM-2B is 2,304 wide, Gemma-2-9B 3,584."""
    if family == "layerwise":
        heads = max(1, width // 64)
        return {
            "hidden_size": width, "intermediate_size": width * 5 // 2, "num_hidden_layers": 40, "start_layer": 8,
            "num_attention_heads": heads, "num_key_value_heads": heads, "max_position_embeddings": 2048,
        }  # fmt: skip
    heads = max(2, width // 128 * 2)
    return {
        "hidden_size": width, "intermediate_size": width * 4, "num_hidden_layers": 42, "start_layer": 8,
        "num_attention_heads": heads, "num_key_value_heads": heads // 2, "head_dim": 64,
        "sliding_window": 4096, "max_position_embeddings": 8192,
    }  # fmt: skip


def passages(count: int, tokens: int) -> list[str]:
    """Make up passages of half to one and a half times so many tokens."""
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randint(tokens // 4, tokens * 3 // 4))) for _ in range(count)]


def timed(call: Callable[[], object], repeat: int) -> tuple[float, float]:
    """Return the least seconds of some calls: by the clock, and of the processor."""
    clock, processor = [], []
    for _ in range(repeat):
        begin, used = time.perf_counter(), time.process_time()
        call()
        clock.append(time.perf_counter() - begin)
        processor.append(time.process_time() - used)
    return min(clock), min(processor)


def measure(
    config: RerankConfig, texts: list[str], repeat: int
) -> tuple[ScoredPairs, ScoredPairs, float, tuple[float, float]]:
    """Rank once for the scores and the operations, in this thread, and again for the time."""
    scorer = Scorer(config, resolve(config.device)[0])
    pairs = [(QUERY, text) for text in texts]
    task = Task(counts=(len(pairs),)) if config.progressive else SCORE
    full = scorer.score(pairs)
    with FlopCounterMode(display=False) as counter:
        scored = scorer.score(pairs, task)
    seconds = timed(lambda: scorer.score(pairs, task), repeat)
    scorer.close()
    return scored, full, counter.get_total_flops() / 1e9, seconds


def run(family: str, arguments: argparse.Namespace) -> list[Row]:
    """Measure all runs of one family."""
    rows = []
    texts = passages(arguments.passages, arguments.tokens)
    with tempfile.TemporaryDirectory() as folder:
        path = build(family, Path(folder) / family, **shape(family, arguments.width))
        for name, options in RUNS[family].items():
            config = RerankConfig(model=str(path), device=arguments.device, dtype=arguments.dtype, **options)
            scored, full, gflops, seconds = measure(config, texts, arguments.repeat)
            last = max(scored.layers) if scored.layers else None
            ends = [i for i in range(len(texts)) if scored.layers is None or scored.layers[i] == last]
            apart = max(abs(scored.logits[i] - full.logits[i]) for i in ends) if scored.layers else None
            rows.append(Row(family, name, gflops, *seconds, len(ends), apart))
            show(rows[-1], rows[0])
    return rows


def show(row: Row, first: Row) -> None:
    """Print one line of the table."""
    apart = "" if row.largest_difference is None else f"{row.largest_difference:.1e}"
    print(
        f"{row.family:12} {row.run:24} {row.gflops:10.1f} {row.gflops / first.gflops:6.0%} "
        f"{row.seconds:9.2f} {row.seconds / first.seconds:6.0%} "
        f"{row.processor_seconds:9.2f} {row.processor_seconds / first.processor_seconds:6.0%} "
        f"{row.went_to_the_end:6} {apart:>8}"
    )


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--width", type=int, default=256, help="features of the hidden states (default: 256)")
    parser.add_argument("--passages", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=160, help="tokens of a passage, about (default: 160)")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "progressive.json")
    arguments = parser.parse_args()
    figures = f"{'GFLOPs':>10} {'':6} {'seconds':>9} {'':6} {'cpu s':>9} {'':6}"
    print(f"{'family':12} {'run':24} {figures} {'to end':>6} {'apart':>8}")
    rows = [row for family in RUNS for row in run(family, arguments)]
    settings = {name: value for name, value in vars(arguments).items() if name != "output"}
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "processor": platform.machine()}
    found = {"version": __version__, "steps": STEPS, "settings": settings, "machine": machine}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({**found, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
