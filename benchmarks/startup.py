"""Where a start goes, from nothing to a first score: `python -m benchmarks.startup --help`.

Fresh processes import, construct and score, once with this package and once with plain transformers
on the same model. The first says which package the time was spent in; the difference of the two is
what this package adds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import machine
from benchmarks.sampler import Sampler

_RESULTS: Final = Path(__file__).parent / "results"
_PACKAGES: Final = 8
_QUERY: Final = "how to remove a directory tree"
_PASSAGES: Final = ["shutil.rmtree: Delete an entire directory tree.", "os.getcwd: Return the current directory."]
_STEPS: Final = (
    "import torch",
    "import transformers",
    "import this package",
    "construct",
    "first score",
    "second score",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Start both several times; print a table and write a JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="encoder-small", help="an encoder; see README.md")
    parser.add_argument("--repeats", type=int, default=5, help="starts of each; the result is their median")
    parser.add_argument("--threads", type=int, default=None, help="default: all CPUs")
    parser.add_argument("--out", type=Path, default=_RESULTS / "startup.json", help="the JSON file")
    parser.add_argument("--child", choices=("ours", "plain"), default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(_child(options)))
        return
    from benchmarks.models import locate

    model = locate(options.model)  # built before anything is timed
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "plain": []}
    for _ in range(options.repeats):
        for child, found in runs.items():
            found.append(_start(child, options))
    result = {
        "device": machine.describe(runs["ours"][0]["threads"]),
        "model": model.name,
        "seconds": {child: _medians(found, "steps") for child, found in runs.items()},
        "load_steps": _medians(runs["ours"], "load"),
        "by_package": _medians(runs["ours"], "packages"),
    }
    _print(result)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\nWritten to {options.out}")


def _start(child: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.startup", "--model", options.model, "--child", child]
    command += ["--threads", str(options.threads)] if options.threads else []
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - this module
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _child(options: argparse.Namespace) -> dict[str, Any]:
    """Start once; return seconds by step, by package, and by what the Reranker says of its load."""
    found: dict[str, Any] = {"load": {}}
    steps = dict.fromkeys(_STEPS, 0.0)
    with Sampler() as sampler:
        with _Step(steps, "import torch"):
            found["threads"] = machine.limit_threads(options.threads)
        with _Step(steps, "import transformers"):
            from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: F401 - part of a start
        if options.child == "ours":
            found["load"] = _run_ours(options.model, steps)
        else:
            _run_plain(options.model, steps)
    found["steps"] = steps
    found["packages"] = dict(sorted(sampler.seconds.items(), key=lambda item: -item[1])[:_PACKAGES])
    return found


def _run_ours(name: str, steps: dict[str, float]) -> dict[str, float]:
    from benchmarks.models import locate

    path = locate(name).path
    with _Step(steps, "import this package"):
        from flag_rerank_integrations import Reranker
    with _Step(steps, "construct"):
        reranker = Reranker(path, device="cpu")
    for step in _STEPS[-2:]:
        with _Step(steps, step):
            reranker.rank(_QUERY, _PASSAGES)
    load = dict(reranker.stats().load_seconds)
    reranker.close()
    return load


def _run_plain(name: str, steps: dict[str, float]) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from benchmarks.models import locate

    path = locate(name).path
    with _Step(steps, "construct"):
        tokenizer = AutoTokenizer.from_pretrained(path)
        network = AutoModelForSequenceClassification.from_pretrained(path).eval()
    for step in _STEPS[-2:]:
        with _Step(steps, step), torch.inference_mode():
            pairs = [(_QUERY, passage) for passage in _PASSAGES]
            network(**tokenizer(pairs, padding=True, return_tensors="pt")).logits.tolist()


class _Step:
    """Adds the time of a `with` block to one step."""

    def __init__(self, steps: dict[str, float], name: str) -> None:
        self._steps, self._name = steps, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._steps[self._name] += time.perf_counter() - self._start


def _medians(runs: Sequence[dict[str, Any]], part: str) -> dict[str, float]:
    names = dict.fromkeys(name for run in runs for name in run[part])
    return {name: round(median(run[part].get(name, 0.0) for run in runs), 4) for name in names}


def _print(result: dict[str, Any]) -> None:
    ours, plain = result["seconds"]["ours"], result["seconds"]["plain"]
    print(f"{'seconds (median)':28} {'this package':>12} {'plain':>8}")
    for step in _STEPS:
        print(f"{step:28} {ours[step]:12.3f} {plain[step]:8.3f}")
    print(f"{'all but the second score':28} {_total(ours):12.3f} {_total(plain):8.3f}")
    print("\nthis package's start, by the package that the time was spent in:")
    for package, seconds in sorted(result["by_package"].items(), key=lambda item: -item[1]):
        print(f"  {package:26} {seconds:8.3f}")
    print("\nthe Reranker's own account of its load:")
    for step, seconds in result["load_steps"].items():
        print(f"  {step:26} {seconds:8.3f}")


def _total(steps: dict[str, float]) -> float:
    return sum(seconds for step, seconds in steps.items() if step != _STEPS[-1])


if __name__ == "__main__":
    main()
