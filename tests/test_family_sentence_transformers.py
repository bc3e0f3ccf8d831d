"""The sentence-transformers family: parity with CrossEncoder.predict one pair at a time, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from cross_encoder_models import DEFAULT_PROMPT, build_chat_reranker, build_classifier
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from tiny_tokenizers import TEXTS
from transformers import AutoModel, AutoTokenizer

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import ConfigError, ModelLoadError
from flag_rerank_integrations.families import load
from flag_rerank_integrations.families.cross_encoder import CrossEncoderFamily
from flag_rerank_integrations.pairs import Pair

CPU = Device("cpu")
QUERY = "how many people live in Berlin?"
PAIRS: list[Pair] = [
    *((QUERY, text) for text in TEXTS[:6]),
    ("a", "b"),
    ("what is a panda? " * 3, "the giant panda " * 20),
    ("q", "giant panda " * 400),
    ("a query", ""),
]
KINDS = ("classifier", "chat")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A BERT with a head, and a causal model with a chat template and a LogitScore module."""
    root = tmp_path_factory.mktemp("cross_encoders")
    return {"classifier": build_classifier(root / "classifier"), "chat": build_chat_reranker(root / "chat")}


@pytest.fixture
def copied(built: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the classifier that a test may change."""
    return Path(shutil.copytree(built["classifier"], tmp_path / "model"))


def open_family(path: Path, **options: object) -> CrossEncoderFamily:
    loaded = load(RerankConfig(model=str(path), family="sentence-transformers", **options), CPU)
    assert isinstance(loaded, CrossEncoderFamily)
    return loaded


def predicted(path: Path, pairs: list[Pair], **options: object) -> list[float]:
    """Score with CrossEncoder alone, one pair at a time, without an activation."""
    model = CrossEncoder(str(path), device="cpu")
    return [float(model.predict([pair], activation_fn=torch.nn.Identity(), **options)[0]) for pair in pairs]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_those_of_cross_encoder(kind: str, built: dict[str, Path]) -> None:
    with closing(open_family(built[kind])) as family:
        encoded = family.encode(PAIRS)
        scores = family.forward(encoded)
        assert family.layout == "padded"
        assert all(len(pair) <= family.max_length for pair in encoded)
    assert scores.dtype == np.float32
    assert np.abs(scores - predicted(built[kind], PAIRS)).max() <= 3e-6
    assert np.ptp(scores) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_does_not_depend_on_its_neighbours(kind: str, built: dict[str, Path]) -> None:
    with closing(open_family(built[kind])) as family:
        encoded = family.encode(PAIRS)
        alone = np.array([family.forward([pair])[0] for pair in encoded])
        assert np.abs(family.forward(encoded) - alone).max() <= 3e-6
        assert np.abs(family.forward(encoded[::-1]) - alone[::-1]).max() <= 3e-6


def test_lengths_are_real_and_what_is_cut_is_reported(built: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built["classifier"])
    with closing(open_family(built["classifier"])) as family:
        encoded = family.encode(PAIRS)
    lengths = [len(tokenizer([pair]).input_ids[0]) for pair in PAIRS]
    assert [len(pair) for pair in encoded] == [min(length, 256) for length in lengths]
    assert [pair.truncated_tokens for pair in encoded] == [max(0, length - 256) for length in lengths]


def test_a_shorter_max_length_is_enforced_as_cross_encoder_does(built: dict[str, Path]) -> None:
    model = CrossEncoder(str(built["classifier"]), device="cpu", max_length=40)
    with closing(open_family(built["classifier"], max_length=40)) as family:
        encoded = family.encode(PAIRS)
        assert max(map(len, encoded)) == 40
        for pair, ids in zip(PAIRS, encoded, strict=True):
            assert list(ids.ids) == model.preprocess([pair])["input_ids"][0].tolist()


def test_a_cut_chat_prompt_keeps_its_end(built: dict[str, Path]) -> None:
    with closing(open_family(built["chat"], max_length=96)) as family:
        short, long = family.encode([("q", "panda"), ("q", "giant panda " * 900)])
    assert len(long) == 96
    assert list(long.ids)[-5:] == list(short.ids)[-5:]


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_and_instructions_are_passed_on(kind: str, built: dict[str, Path]) -> None:
    pairs = PAIRS[:3]
    with closing(open_family(built[kind], prompt="Berlin", instruction="people ")) as family:
        scores = family.forward(family.encode(pairs))
    instructed = [("people " + query, passage) for query, passage in pairs]
    assert np.abs(scores - predicted(built[kind], instructed, prompt="Berlin")).max() <= 3e-6
    with closing(open_family(built[kind])) as family:
        assert np.abs(family.forward(family.encode(pairs)) - scores).min() > 1e-4


def test_the_checkpoints_own_prompt_is_the_default(built: dict[str, Path]) -> None:
    with (
        closing(open_family(built["chat"])) as default,
        closing(open_family(built["chat"], prompt=DEFAULT_PROMPT)) as said,
    ):
        assert default.encode(PAIRS[:1]) == said.encode(PAIRS[:1])


@pytest.mark.parametrize(
    "kind, literal, plain, parsed", [("classifier", "[SEP]", 2, 3), ("chat", "<eos>", 1, 2), ("chat", "<bos>", 1, 2)]
)
def test_a_literal_special_token_is_text_unless_it_is_asked_to_be_parsed(
    kind: str, literal: str, plain: int, parsed: int, built: dict[str, Path]
) -> None:
    token = AutoTokenizer.from_pretrained(built[kind]).convert_tokens_to_ids(literal)
    for mode, count in (("plain", plain), ("parse", parsed)):
        with closing(open_family(built[kind], special_tokens=mode)) as family:
            (pair,) = family.encode([(QUERY, f"the passage {literal} contains an answer")])
        assert list(pair.ids).count(token) == count


def test_oversized_and_broken_texts_are_read_from_their_beginning(built: dict[str, Path]) -> None:
    with closing(open_family(built["classifier"])) as family:
        huge, spaces, broken = family.encode(
            [("q", "panda " * 50_000), ("q", " " * 20_000 + "panda"), ("q", "lone \ud800 surrogate \x00")]
        )
        plain, panda = family.encode([("q", "panda " * 5_000), ("q", "panda")])
        assert family.forward([huge, broken]).shape == (2,)
    assert huge.ids == plain.ids
    assert huge.truncated_tokens == pytest.approx(10 * plain.truncated_tokens, rel=0.1)
    assert spaces.ids == panda.ids


def test_a_reranker_detects_and_ranks(built: dict[str, Path]) -> None:
    with Reranker(model=str(built["chat"]), device="cpu") as reranker:
        ranked = reranker.rank(QUERY, TEXTS[:4])
        assert reranker.stats().family == "sentence-transformers"
    expected = predicted(built["chat"], [(QUERY, text) for text in TEXTS[:4]])
    assert [passage.index for passage in ranked] == sorted(range(4), key=lambda i: -expected[i])


def test_dtype_is_passed_on(built: dict[str, Path]) -> None:
    with closing(open_family(built["classifier"], dtype="bfloat16")) as family:
        assert family._model.dtype == torch.bfloat16
        assert family.forward(family.encode(PAIRS[:2])).dtype == np.float32


def test_closing_twice_is_safe(built: dict[str, Path]) -> None:
    family = open_family(built["classifier"])
    family.close()
    family.close()


def test_two_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="has 2 labels: it is a classifier"):
        open_family(build_classifier(tmp_path / "model", num_labels=2))


def test_a_model_without_a_head_is_refused(tmp_path: Path, tiny: Callable[[str], str]) -> None:
    AutoModel.from_pretrained(tiny("bert")).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny("bert")).save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match=r"lacks the weights classifier\.bias, classifier\.weight"):
        open_family(tmp_path)


def test_an_embedding_model_is_refused(tmp_path: Path, tiny: Callable[[str], str]) -> None:
    SentenceTransformer(tiny("bert"), device="cpu").save_pretrained(str(tmp_path))
    with pytest.raises(ModelLoadError, match="is an embedding model"):
        open_family(tmp_path)


def test_a_missing_weight_deep_in_the_model_is_refused(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    del weights["bert.pooler.dense.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"lacks the weights bert\.pooler\.dense\.weight"):
        open_family(copied)


def test_weights_under_their_older_names_are_accepted(copied: Path, built: dict[str, Path]) -> None:
    weights = load_file(copied / "model.safetensors")
    older = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in weights.items()
    }
    assert older.keys() != weights.keys()
    save_file(older, copied / "model.safetensors", metadata={"format": "pt"})
    with closing(open_family(copied)) as family, closing(open_family(built["classifier"])) as original:
        pairs = family.encode(PAIRS[:3])
        assert family.forward(pairs).tolist() == original.forward(pairs).tolist()


def test_pickled_weights_are_refused(copied: Path) -> None:
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match="could not load"):
        open_family(copied)


def test_code_that_comes_with_a_model_does_not_run(copied: Path, tmp_path: Path) -> None:
    modules = json.loads((copied / "modules.json").read_text(encoding="utf-8"))
    modules[0]["type"] = "own_module.Scorer"
    (copied / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (copied / "own_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    with pytest.raises(ModelLoadError, match=r"runs code of its own \(own_module\.Scorer\)"):
        open_family(copied)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "kind, options, words",
    [
        ("classifier", {"max_length": 300}, "max_length=300 is above the 256 tokens"),
        ("classifier", {"query_max_length": 20}, "query_max_length cannot be set"),
        ("chat", {"max_length": 16}, "max_length=16 leaves no room"),
    ],
)
def test_lengths_a_model_cannot_take_are_refused(
    kind: str, options: dict[str, object], words: str, built: dict[str, Path]
) -> None:
    with pytest.raises(ConfigError, match=words):
        open_family(built[kind], **options)


def test_a_length_saved_with_the_model_is_its_default(tmp_path: Path, tiny: Callable[[str], str]) -> None:
    CrossEncoder(tiny("bert"), device="cpu", max_length=48).save_pretrained(str(tmp_path))
    with closing(open_family(tmp_path)) as family:
        assert family.max_length == 48


def test_missing_sentence_transformers_names_the_extra(built: dict[str, Path]) -> None:
    code = (
        "import sys; sys.modules['sentence_transformers'] = None\n"
        "from flag_rerank_integrations import Reranker\n"
        f"Reranker(model={str(built['chat'])!r}, device='cpu')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("flag_rerank_integrations.errors.ModelLoadError")
    assert 'pip install "flag-rerank-integrations[sentence-transformers]"' in error
