"""How known integrations fare under the conformance tests: `python -m benchmarks.conformance --help`.

Each integration of conformance_cases.py is run by a pytest of its own, several times, on one small model
with random weights: what is under test is how documents and nodes are handled, not how well they are ranked.
requirements-conformance.txt lists what to install; one that is not installed is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

__all__ = ["CASES", "table"]

_HERE: Final = Path(__file__).parent
_ROOT: Final = _HERE.parent
_RESULT: Final = _HERE / "results" / "conformance.json"
_SHOWN_CHARACTERS: Final = 160
_CELLS: Final = {"passed": "yes", "failed": "**no**", "sometimes": "at times", "not claimed": "-"}


@dataclass(frozen=True, slots=True)
class Case:
    """An integration: its class, the framework, where it is found, and the distributions that decide how it fares."""

    name: str
    framework: str
    module: str
    distributions: tuple[str, ...]


_OURS: Final = "flag-rerank-integrations"
CASES: Final = (
    Case("FlagRerankCompressor", "LangChain", "flag_rerank_integrations.langchain", (_OURS, "langchain-core")),
    Case(
        "CrossEncoderReranker", "LangChain", "langchain_community.cross_encoders",
        ("langchain-classic", "langchain-community", "sentence-transformers"),
    ),
    Case("FlashrankRerank", "LangChain", "flashrank", ("langchain-community", "FlashRank")),
    Case("FlagRerankPostprocessor", "LlamaIndex", "flag_rerank_integrations.llama_index", (_OURS, "llama-index-core")),
    Case(
        "SentenceTransformerRerank", "LlamaIndex", "sentence_transformers",
        ("llama-index-core", "sentence-transformers"),
    ),
    Case(
        "FlagEmbeddingReranker", "LlamaIndex", "llama_index.postprocessor.flag_embedding_reranker",
        ("llama-index-postprocessor-flag-embedding-reranker", "FlagEmbedding"),
    ),
    Case(
        "FlashRankRerank", "LlamaIndex", "llama_index.postprocessor.flashrank_rerank",
        ("llama-index-postprocessor-flashrank-rerank", "FlashRank"),
    ),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all integrations that are installed; print a table for each framework and write a JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conformance", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="CLASS", help="names of integrations; default: all")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each: threads do not meet alike every time")
    parser.add_argument("--out", type=Path, default=_RESULT, help="the JSON file")
    options = parser.parse_args(arguments)
    chosen = [case for case in CASES if options.only is None or case.name in options.only]
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(Path(folder))
        result = {
            "python": sys.version.partition(" ")[0],
            "libraries": {name: version(name) for name in ("torch", "transformers", "pydantic", "onnxruntime")},
            "repeats": options.repeats,
            "integrations": [
                _examine(case, environment, options.repeats, Path(folder)) for case in chosen if _installed(case)
            ],
        }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for framework in ("LangChain", "LlamaIndex"):
        print(f"\n{framework}\n\n{table(result, framework)}")


def table(result: Mapping[str, Any], framework: str) -> str:
    """Write the integrations of one framework as a Markdown table, a row for each test.

    Args:
        result: What `main` wrote.
        framework: "LangChain" or "LlamaIndex".
    """
    cases = [case for case in result["integrations"] if case["framework"] == framework]
    tests = sorted({test for case in cases for test in case["tests"]})
    lines = [["test", *(f"`{case['name']}`" for case in cases)]]
    for test in tests:
        outcomes = [case["tests"].get(test, {}).get("outcome") for case in cases]
        lines.append([test.removeprefix("test_").replace("_", " "), *(_CELLS[str(outcome)] for outcome in outcomes)])
    lines.append(["passed / failed / not claimed", *(_totals(case["tests"]) for case in cases)])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _totals(tests: Mapping[str, Mapping[str, str]]) -> str:
    outcomes = [test["outcome"] for test in tests.values()]
    failed = outcomes.count("failed") + outcomes.count("sometimes")
    return f"{outcomes.count('passed')} / {failed} / {outcomes.count('not claimed')}"


def _installed(case: Case) -> bool:
    try:
        found = importlib.util.find_spec(case.module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        print(f"{case.name} is left out: {case.module} is not installed", file=sys.stderr)
    return found


def _environment(folder: Path) -> dict[str, str]:
    """Build the model in both forms; return the environment of the test runs."""
    sys.path.insert(0, str(_ROOT / "tests"))
    import onnx_models
    import tiny_models

    model = folder / "model"
    shape = tiny_models.Spec("bert", tiny_models.bert_tokenizer, {**tiny_models.SIZES, "max_position_embeddings": 512})
    tiny_models.build(shape, model)
    settings = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["model_max_length"] = 512
    (model / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    # FlashRank has names of its own for its models and their files.
    flashrank = folder / "flashrank"
    target = flashrank / "ms-marco-TinyBERT-L-2-v2"
    onnx_models.export(str(model), target, file="flashrank-TinyBERT-L-2-v2.onnx")
    specials = {name: settings[name] for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")}
    (target / "special_tokens_map.json").write_text(json.dumps(specials), encoding="utf-8")
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "CONFORMANCE_MODEL": str(model),
        "CONFORMANCE_FLASHRANK": str(flashrank),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(paths),
        "TOKENIZERS_PARALLELISM": "true",
    }


def _examine(case: Case, environment: Mapping[str, str], repeats: int, folder: Path) -> dict[str, Any]:
    """Run one integration several times; return what became of each test, with a reason if it did not pass."""
    runs = [_run(case, environment, folder) for _ in range(repeats)]
    tests = {}
    for test in runs[0]:
        outcomes = {run[test][0] for run in runs}
        reason = next((run[test][1] for run in runs if run[test][0] != "passed"), "")
        tests[test] = {"outcome": outcomes.pop() if len(outcomes) == 1 else "sometimes"}
        if reason:
            tests[test]["reason"] = _plain(reason, folder)
    print(f"{case.name}: {_totals(tests)}", file=sys.stderr)
    versions = {name: version(name) for name in case.distributions}
    return {"name": case.name, "framework": case.framework, "versions": versions, "tests": tests}


def _run(case: Case, environment: Mapping[str, str], folder: Path) -> dict[str, tuple[str, str]]:
    """Run one integration's class once; return outcome and reason by test."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    # Settings and fixtures of this project stay out of it.
    settings = folder / "pytest.ini"
    settings.write_text("[pytest]\n", encoding="utf-8")
    options = ["-q", "--noconftest", "-c", str(settings), "-p", "no:cacheprovider"]
    target = f"{_HERE / 'conformance_cases.py'}::Test{case.name}"
    answer = subprocess.run(  # noqa: S603 - pytest, on a file beside this one
        [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", target],
        cwd=folder, env=dict(environment), capture_output=True, text=True, check=False, timeout=1800,
    )  # fmt: skip
    if not report.exists():
        msg = f"{case.name} could not be run:\n{answer.stdout}{answer.stderr}"
        raise RuntimeError(msg)
    outcomes = {}
    for test in ET.parse(report).iter("testcase"):  # noqa: S314 - written by pytest, a moment ago
        kinds = {child.tag: child.attrib.get("message", "") for child in test}
        kind = next((name for name in ("failure", "error", "skipped") if name in kinds), None)
        outcome = "passed" if kind is None else "not claimed" if kind == "skipped" else "failed"
        outcomes[test.attrib["name"]] = (outcome, kinds.get(kind, "") if kind else "")
    return outcomes


def _plain(reason: str, folder: Path) -> str:
    """Return the first line of a reason, without paths of this machine and addresses in memory."""
    line = reason.strip().partition("\n")[0].replace(str(folder), "...")
    line = re.sub(r" at 0x[0-9a-f]+", "", line)
    return f"{line[:_SHOWN_CHARACTERS]}..." if len(line) > _SHOWN_CHARACTERS else line


if __name__ == "__main__":
    main()
