"""The models that are measured: true shapes with random weights, the quickstart model, or any directory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

__all__ = ["MODELS", "BenchModel", "locate"]

_CACHE_VARIABLE: Final = "FLAG_RERANK_BENCH_CACHE"
_TOKENIZER_SIZE: Final = 8192
_SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """How to build a checkpoint with random weights."""

    model_type: str
    causal: bool
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A model to measure."""

    name: str
    path: str
    """The directory with the tokenizer, and the weights unless the model is the quickstart one."""
    kind: str
    """"encoder", "causal" or "onnx"."""
    config: dict[str, Any]
    """What config.json says; the sizes are read from it."""

    @property
    def sizes(self) -> dict[str, int]:
        """Hidden size, feed-forward size, layers and attention heads."""
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        return {name: int(self.config[name]) for name in names}


def _encoder(hidden: int, layers: int, heads: int) -> Shape:
    # 0.02, the usual spread, leaves the scores of a small model nearly equal: differences would not show.
    options = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "max_position_embeddings": 512,
        "initializer_range": hidden**-0.5,
        "num_labels": 1,
    }
    return Shape("bert", causal=False, options=options)


_GEMMA: Final = {
    "vocab_size": 256_000,
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "intermediate_size": 2048,
    "max_position_embeddings": 2048,
    "initializer_range": 512**-0.5,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
_SHAPES: Final = {
    "encoder-small": _encoder(384, 6, 12),
    "encoder-base": _encoder(768, 12, 12),
    "causal-toy": Shape("gemma", causal=True, options=_GEMMA),
    # Not part of the comparison: it shows what the vocabulary costs.
    "causal-toy-32k": Shape("gemma", causal=True, options={**_GEMMA, "vocab_size": 32_000}),
}
_QUICKSTART: Final = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 30_522,
}
MODELS: Final = ("encoder-small", "encoder-base", "causal-toy", "quickstart")


def locate(name: str) -> BenchModel:
    """Return a model by name, built at first use, or the checkpoint in a directory.

    Args:
        name: A model of this file, or a directory with a checkpoint.

    Raises:
        FileNotFoundError: It is neither, or the directory has no config.json.
    """
    if name == "quickstart":
        from flag_rerank_integrations.families.quickstart import locate as find

        return BenchModel(name, str(find()), "onnx", dict(_QUICKSTART))
    path = _built(name, _SHAPES[name]) if name in _SHAPES else Path(name)
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    kind = "causal" if str((config.get("architectures") or [""])[0]).endswith("ForCausalLM") else "encoder"
    return BenchModel(name if name in _SHAPES else path.name, str(path), kind, config)


def cache_directory() -> Path:
    """Return where built models are kept: beside this file, or where an environment variable says."""
    return Path(os.environ.get(_CACHE_VARIABLE) or Path(__file__).parent / ".cache")


def _built(name: str, shape: Shape) -> Path:
    """Return the directory of a built model; another shape under the same name is another directory."""
    key = hashlib.sha256(json.dumps(asdict(shape), sort_keys=True).encode()).hexdigest()[:12]
    target = cache_directory() / f"{name}-{key}"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as part:
            _build(shape, Path(part) / "model")
            shutil.move(Path(part) / "model", target)  # in one step: half a model is never taken for one
    return target


def _build(shape: Shape, path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    tokenizer = _gemma_tokenizer() if shape.causal else _bert_tokenizer()
    vocabulary = {"vocab_size": len(tokenizer)} if "vocab_size" not in shape.options else {}
    config = AutoConfig.for_model(shape.model_type, **shape.options, **vocabulary)
    auto: Any = AutoModelForCausalLM if shape.causal else AutoModelForSequenceClassification
    torch.manual_seed(_SEED)
    auto.from_config(config).eval().save_pretrained(path)
    tokenizer.save_pretrained(path)


def _bert_tokenizer() -> Any:  # noqa: ANN401 - transformers' tokenizers share no typed base
    """The quickstart model's WordPiece tokenizer: a real one that installs from a package index."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from flag_rerank_integrations.families.quickstart import locate as find

    tokenizer = Tokenizer.from_file(str(find() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _gemma_tokenizer() -> Any:  # noqa: ANN401 - as above
    """A byte-level BPE tokenizer trained on the benchmark's own texts; its ids lie in the model's larger vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_TOKENIZER_SIZE,
        special_tokens=["<pad>", "<eos>", "<bos>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )


def _texts() -> Iterator[str]:
    from flag_rerank_integrations.demo.corpus import harvest

    return (entry.text for entry in harvest())
