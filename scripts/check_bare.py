"""Checks an installed wheel where no extra is installed; run by scripts/check_package.sh."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import flag_rerank_integrations as package
from flag_rerank_integrations import RemoteReranker, Reranker

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
QUERY = "what do pandas eat ?"
PASSAGES = ["the nile is a river", "pandas eat bamboo", "a river", "bamboo is what pandas eat the river a nile"]
CLOSE = 1e-5
# Extras for which there is nothing to ask here.
UNASKED = {
    "all",  # these four are sets of others, or tools
    "dev",
    "docs",
    "examples",
    "quantization",  # asked for on accelerators alone
}


def write_checkpoint(folder: Path) -> Path:
    """Write a BERT cross-encoder of two layers with random weights, and its tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    words = list(dict.fromkeys(" ".join([*SPECIALS, QUERY, *PASSAGES]).split()))
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "token_type_ids", "attention_mask"], **names
    ).save_pretrained(folder)
    torch.manual_seed(7)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    # With the usual 0.02 all scores of so small a model would be nearly equal.
    config = BertConfig(vocab_size=len(words), num_labels=1, initializer_range=0.5, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def transformers_scores(folder: Path) -> list[float]:
    """Score the passages one by one with transformers alone."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return [model(**tokenizer(QUERY, text, return_tensors="pt")).logits.item() for text in PASSAGES]


def check_scores(folder: Path) -> None:
    """Hold the scores and the ranking of the written model against transformers' own."""
    expected = transformers_scores(folder)
    with Reranker(str(folder), device="cpu") as reranker:
        scores = reranker.score([(QUERY, text) for text in PASSAGES])
        ranking = [passage.index for passage in reranker.rank(QUERY, PASSAGES)]
    worst = max(abs(ours - theirs) for ours, theirs in zip(scores, expected, strict=True))
    if worst > CLOSE or ranking != sorted(range(len(PASSAGES)), key=lambda place: -expected[place]):
        sys.exit(f"scores {scores}, order {ranking}; transformers alone says {expected}")
    print(f"a checkpoint written here scores as with transformers alone (worst difference {worst:.1e})")


def ask(folder: Path) -> dict[str, Callable[[], object]]:
    """Return, by extra, a use of the package that needs it."""
    adapter, graph = folder.parent / "adapter", folder.parent / "graph"
    for made in (adapter, graph):
        made.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": str(folder)})
    )
    (graph / "model.onnx").write_bytes(b"never read")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (graph / name).write_bytes((folder / name).read_bytes())
    return {
        "langchain": lambda: import_module("flag_rerank_integrations.langchain"),
        "llama-index": lambda: import_module("flag_rerank_integrations.llama_index"),
        "sentence-transformers": lambda: Reranker(str(folder), device="cpu", family="sentence-transformers"),
        "onnx": lambda: Reranker(str(graph), device="cpu"),
        "peft": lambda: Reranker(str(adapter), device="cpu"),
        "remote": lambda: RemoteReranker("http://localhost:9", form="tei"),
        "ray": lambda: Reranker(str(folder), device="ray:1"),
        "quickstart": lambda: Reranker("quickstart", device="cpu"),
        "demo": lambda: command("demo"),
        "bench": lambda: command("bench", "--model", str(folder), "--out", str(folder.parent / "bench")),
        "eval": lambda: import_module("flag_rerank_integrations.evaluation").values_by_query(["RR"], {}, {}),
        "monitoring": lambda: import_module("flag_rerank_integrations.monitoring").PrometheusCollector({}),
        "testing": lambda: import_module("flag_rerank_integrations.testing"),
    }


def command(*arguments: str, given: str = "") -> str:
    """Run the installed command and return its output; a failure is raised with its message."""
    program = which("flag-rerank", path=str(Path(sys.executable).parent))
    if program is None:
        sys.exit("the command flag-rerank is not installed")
    done = subprocess.run([program, *arguments], input=given, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode:
        msg = done.stderr.strip()
        raise RuntimeError(msg)
    return done.stdout


def complaint(extra: str, use: Callable[[], object]) -> str | None:
    """Return what is wrong with the error that a use raises for want of its extra; None is nothing."""
    try:
        use()
    except Exception as error:  # noqa: BLE001 - which kind it is, is part of what is looked at
        message = str(error)
        if f"flag-rerank-integrations[{extra}]" in message and "\n" not in message:
            return None
        return f"{extra}: {type(error).__name__}: {message}"
    return f"{extra}: it works, though the extra is not installed"


def check_extras(folder: Path) -> None:
    """See that what needs an extra says which one to install, in one line."""
    uses = ask(folder)
    known = {*uses, *UNASKED}
    offered = set(metadata("flag-rerank-integrations").get_all("Provides-Extra") or ())
    problems = [f"{extra}: scripts/check_bare.py says nothing of it" for extra in sorted(offered ^ known)]
    problems += filter(None, (complaint(extra, use) for extra, use in uses.items()))
    if problems:
        sys.exit("\n".join(problems))
    print(f"{len(uses)} missing extras name themselves: {', '.join(uses)}")


def check_command(folder: Path) -> None:
    """Run the installed command: its help, its devices, and one ranking."""
    for arguments in (["--help"], ["rank", "--help"], ["devices"]):
        if not command(*arguments).strip():
            sys.exit(f"flag-rerank {' '.join(arguments)} prints nothing")
    ranked = command(
        "rank", "-q", QUERY, "--model", str(folder), "--device", "cpu", "--json", given="\n".join(PASSAGES)
    )
    rows = [json.loads(line) for line in ranked.splitlines()]
    if {row["text"] for row in rows} != set(PASSAGES) or rows != sorted(rows, key=lambda row: -row["score"]):
        sys.exit(f"flag-rerank rank printed {ranked}")
    print(f"the command ranks {len(rows)} passages")


def check_place() -> None:
    """See that the package comes from this environment, and that no framework is in sight."""
    if not Path(package.__file__).is_relative_to(sys.prefix):
        sys.exit(f"imported from elsewhere: {package.__file__}")
    there = [name for name in ("langchain_core", "llama_index", "onnxruntime", "peft", "ray") if find_spec(name)]
    there = [name for name in there if name != "llama_index" or find_spec("llama_index.core")]  # our own part is there
    if there:
        sys.exit(f"this environment is not bare: it has {', '.join(there)}")


def main() -> None:
    """Run all checks on a checkpoint that is written for them."""
    check_place()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows keeps loaded weights open
        checkpoint = write_checkpoint(Path(folder) / "checkpoint")
        check_scores(checkpoint)
        check_extras(checkpoint)
        check_command(checkpoint)


if __name__ == "__main__":
    main()
