"""PEFT adapters: made with peft itself, merged at load, scored as peft's own unmerged model scores."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import Hub, Repository
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import ConfigError, MissingExtraError, ModelLoadError

PAIRS = [("panda", "a bear of China"), ("how many people?", "Berlin has a population"), ("", "of art"), ("x", "")]
PROMPT = "Yes or No?"
Scores = list[float]


def stir(model: Any) -> None:
    """Give what was to be trained random values that matter; peft starts with none that do."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):  # peft's own order changes from run to run
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def scores_of_classifier(model: Any, base: Path) -> Scores:
    tokenizer = AutoTokenizer.from_pretrained(base)
    with torch.inference_mode():
        return [model(**tokenizer([q], [p], return_tensors="pt")).logits[0, 0].item() for q, p in PAIRS]


def scores_of_language_model(model: Any, base: Path) -> Scores:
    tokenizer = AutoTokenizer.from_pretrained(base)
    yes = tokenizer("Yes", add_special_tokens=False).input_ids[0]
    parts = [(f"A: {q}", "\n", f"B: {p}", "\n", PROMPT) for q, p in PAIRS]
    ids = [[2, *(i for part in pair for i in tokenizer(part, add_special_tokens=False).input_ids)] for pair in parts]
    with torch.inference_mode():
        return [model(torch.tensor([row])).logits[0, -1, yes].item() for row in ids]


@pytest.fixture
def without_head(tiny: Any, tmp_path: Path) -> Callable[[str], Path]:
    """Base models as they are pre-trained: no head, no word of one in the config."""

    def make(name: str) -> Path:
        path = tmp_path / f"{name}-base"
        AutoModel.from_pretrained(tiny(name)).save_pretrained(path)
        AutoTokenizer.from_pretrained(tiny(name)).save_pretrained(path)
        config = json.loads((path / "config.json").read_text())
        for key in ("id2label", "label2id", "num_labels"):
            config.pop(key, None)
        (path / "config.json").write_text(json.dumps(config))
        return path

    return make


def train_classifier(base: Path, to: Path, options: Any = None) -> Scores:
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    options = options or LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"])
    wrapped = get_peft_model(model, options).eval()
    stir(wrapped)
    wrapped.save_pretrained(to)
    return scores_of_classifier(wrapped, base)


def train_language_model(base: Path, to: Path, options: Any) -> Scores:
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(base), options).eval()
    stir(wrapped)
    wrapped.save_pretrained(to)
    return scores_of_language_model(wrapped, base)


@pytest.mark.parametrize("name", ["bert", "xlm-roberta"])
def test_a_trained_head_comes_with_the_adapter(without_head: Any, tmp_path: Path, name: str) -> None:
    expected = train_classifier(without_head(name), tmp_path / "adapter")
    with Reranker(tmp_path / "adapter", device="cpu") as reranker:
        assert reranker.score(PAIRS) == pytest.approx(expected, abs=1e-5)
        assert reranker.stats().family == "encoder"


@pytest.mark.parametrize(
    "options",
    [
        LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["dense"], use_dora=True),
        LoraConfig(
            task_type="SEQ_CLS", r=2, lora_alpha=2, target_modules="all-linear", use_rslora=True, bias="lora_only"
        ),
        IA3Config(task_type="SEQ_CLS", target_modules=["key", "value"], feedforward_modules=[]),
    ],
    ids=["dora", "rslora with biases", "ia3"],
)
def test_other_kinds_of_adapters_on_a_reranker(tiny: Any, tmp_path: Path, options: Any) -> None:
    base = Path(tiny("bert"))
    expected = train_classifier(base, tmp_path / "adapter", options)
    with Reranker(tmp_path / "adapter", device="cpu") as reranker, Reranker(str(base), device="cpu") as plain:
        assert reranker.score(PAIRS) == pytest.approx(expected, abs=1e-5)
        assert reranker.score(PAIRS) != pytest.approx(plain.score(PAIRS), abs=1e-2)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
    ids=["attention", "tied head", "head of its own"],
)
def test_language_models(tiny: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    base = Path(tiny("gemma"))
    expected = train_language_model(base, tmp_path / "adapter", LoraConfig(task_type="CAUSAL_LM", r=4, **options))
    with Reranker(tmp_path / "adapter", device="cpu", prompt=PROMPT) as reranker:
        assert reranker.score(PAIRS) == pytest.approx(expected, abs=1e-4)
        assert reranker.stats().family == "causal"


def test_windows_and_worker_processes_take_adapters_too(without_head: Any, tmp_path: Path) -> None:
    expected = train_classifier(without_head("bert"), tmp_path / "adapter")
    with Reranker(tmp_path / "adapter", device="cpu:2", long_passages="windows") as pool:
        assert pool.score(PAIRS) == pytest.approx(expected, abs=1e-5)


def test_adapter_and_base_come_from_the_hub(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_head: Any
) -> None:
    base = without_head("bert")
    expected = train_classifier(base, tmp_path / "adapter")
    edit(tmp_path / "adapter", base_model_name_or_path="owner/base", revision="main")
    hub = Hub()
    hub.repositories |= {"owner/base": Repository(base), "owner/adapter": Repository(tmp_path / "adapter")}
    address = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address)
    with Reranker("owner/adapter", device="cpu", cache_dir=tmp_path / "cache") as reranker:
        assert reranker.score(PAIRS) == pytest.approx(expected, abs=1e-5)
    hub.close()


def edit(adapter: Path, **changes: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture
def adapter(without_head: Any, tmp_path: Path) -> Path:
    train_classifier(without_head("bert"), tmp_path / "adapter")
    return tmp_path / "adapter"


def refused(adapter: Path, match: str, kind: type[Exception] = ModelLoadError, **options: Any) -> None:
    with pytest.raises(kind, match=match):
        Reranker(adapter, device="cpu", **options)


def test_without_peft_the_extra_is_named(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    refused(adapter, r"needs peft: pip install \"flag-rerank-integrations\[peft\]\"", MissingExtraError)


def test_a_base_that_is_not_there_is_named(adapter: Path, tmp_path: Path) -> None:
    edit(adapter, base_model_name_or_path="/home/trainer/base")
    refused(adapter, r"adapter .* needs its base model '/home/trainer/base': There is no directory")
    edit(adapter, base_model_name_or_path=None)
    refused(adapter, "names no base model")
    edit(adapter, base_model_name_or_path=str(adapter))
    refused(adapter, "is an adapter itself")
    (adapter / "adapter_config.json").write_text("[")
    refused(adapter, "no adapter's config")


def test_a_head_that_was_never_trained(adapter: Path) -> None:
    weights = load_file(str(adapter / "adapter_model.safetensors"))
    kept = {name: tensor for name, tensor in weights.items() if "classifier" not in name}
    save_file(kept, str(adapter / "adapter_model.safetensors"))
    refused(adapter, r"lacks the weights classifier")


def test_weights_that_are_missing_or_not_the_models(adapter: Path) -> None:
    file = str(adapter / "adapter_model.safetensors")
    weights = load_file(file)
    first = next(name for name in weights if "lora_A" in name)
    save_file({name: tensor for name, tensor in weights.items() if name != first}, file)
    refused(adapter, "does not fit .*lora_A")
    save_file({**weights, "base_model.model.bert.other.lora_A.weight": torch.ones(4, 32)}, file)
    refused(adapter, "does not fit .*other")
    save_file({**weights, first: torch.ones(4, 7)}, file)
    refused(adapter, "cannot be merged into")
    Path(file).write_bytes(Path(file).read_bytes()[:-9])
    refused(adapter, "bytes instead of")


def test_pickled_adapters_need_leave(adapter: Path) -> None:
    with Reranker(adapter, device="cpu") as reranker:
        expected = reranker.score(PAIRS)
    weights = load_file(str(adapter / "adapter_model.safetensors"))
    torch.save(weights, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    refused(adapter, r"only as a pickle \(adapter_model\.bin\)")
    with Reranker(adapter, device="cpu", allow_pickle=True) as reranker:
        assert reranker.score(PAIRS) == expected
    torch.save({"weight": print}, adapter / "adapter_model.bin")
    refused(adapter, "broken, or holds more than weights", allow_pickle=True)
    (adapter / "adapter_model.bin").unlink()
    refused(adapter, r"no adapter_model\.safetensors")


def test_an_adapter_that_cannot_be_merged(tiny: Any, tmp_path: Path) -> None:
    options = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    train_language_model(Path(tiny("gemma")), tmp_path / "adapter", options)
    refused(tmp_path / "adapter", "cannot be merged into .*PROMPT_TUNING adds tokens to the input")


def test_two_labels_are_still_a_classifier(without_head: Any, tmp_path: Path) -> None:
    base = without_head("bert")
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    wrapped = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    wrapped.save_pretrained(tmp_path / "adapter")
    refused(tmp_path / "adapter", "2 labels")


def test_families_that_cannot_merge_say_so(adapter: Path) -> None:
    refused(adapter, "sentence-transformers family cannot merge", ConfigError, family="sentence-transformers")


def test_full_weights_beside_an_adapter_are_not_taken_for_its_base(adapter: Path, tiny: Any) -> None:
    with Reranker(adapter, device="cpu") as reranker:
        expected = reranker.score(PAIRS)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(Path(tiny("bert")) / name, adapter / name)
    with Reranker(adapter, device="cpu") as reranker:
        assert reranker.score(PAIRS) == expected
