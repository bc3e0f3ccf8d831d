"""ONNX cross-encoders: parity with torch, independence of neighbours, and what is refused."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import export, torch_scores, write_graph
from onnxruntime.quantization import QuantType, quantize_dynamic
from tiny_tokenizers import TEXTS

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import ConfigError, DeviceError, ModelLoadError
from flag_rerank_integrations.families import load, onnx_graph
from flag_rerank_integrations.families.onnx import OnnxFamily
from flag_rerank_integrations.families.onnx_graph import find_weights, is_dynamically_quantized
from flag_rerank_integrations.pairs import Pair

CPU = Device("cpu")
QUERY = "how many people live in Berlin?"
PAIRS: list[Pair] = [
    *((QUERY, text) for text in TEXTS[:6]),
    ("a", "b"),
    ("what is a panda? " * 3, "the giant panda " * 20),
]
ARCHITECTURES = ("bert", "xlm-roberta")


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[[str], str]) -> dict[str, Path]:
    """Directories of ONNX cross-encoders by architecture: one with token types, one without."""
    root = tmp_path_factory.mktemp("onnx")
    return {name: export(tiny(name), root / name) for name in ARCHITECTURES}


@pytest.fixture
def copied(exported: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of one of them that a test may change."""
    return Path(shutil.copytree(exported["bert"], tmp_path / "model"))


def open_family(path: Path, device: Device = CPU, **options: object) -> OnnxFamily:
    loaded = load(RerankConfig(model=str(path), family="onnx", **options), device)
    assert isinstance(loaded, OnnxFamily)
    return loaded


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_equal_torch_one_pair_at_a_time(
    name: str, exported: dict[str, Path], tiny: Callable[[str], str]
) -> None:
    with closing(open_family(exported[name])) as family:
        scores = family.forward(family.encode(PAIRS))
    expected = torch_scores(tiny(name), PAIRS)
    assert scores.dtype == np.float32
    assert np.abs(scores - expected).max() <= 3e-6
    assert np.ptp(scores) > 0.1


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_float_score_is_the_same_alone_and_among_others(name: str, exported: dict[str, Path]) -> None:
    with closing(open_family(exported[name])) as family:
        encoded = family.encode(PAIRS)
        alone = [float(family.forward([pair])[0]) for pair in encoded]
        assert family.forward(encoded).tolist() == alone
        assert family.forward(encoded[::-1] * 3).tolist() == alone[::-1] * 3


def test_an_int8_score_is_the_same_alone_and_among_others(copied: Path) -> None:
    weights = copied / "model.onnx"
    assert not is_dynamically_quantized(weights)
    model = onnx.load(weights)
    model.graph.ClearField("value_info")  # the exporter's shapes confuse the quantizer
    quantize_dynamic(model, copied / "int8.onnx", weight_type=QuantType.QInt8)
    for old in copied.glob("model.onnx*"):
        old.unlink()
    assert is_dynamically_quantized(copied / "int8.onnx")
    with closing(open_family(copied)) as family:
        encoded = family.encode(PAIRS)
        alone = [float(family.forward([pair])[0]) for pair in encoded]
        assert family.forward(encoded).tolist() == alone


def test_padding_is_used_only_where_it_changes_no_score(exported: dict[str, Path], copied: Path) -> None:
    with closing(open_family(exported["bert"])) as family:
        alone = family.forward(family.encode(PAIRS))
        family.choose_layout("bert", may_pad=True)
        assert family.layout == "padded"
        assert np.abs(family.forward(family.encode(PAIRS)) - alone).max() <= 3e-6
    # This graph takes the mean over the padding too.
    write_graph(copied, output="logits")
    with closing(open_family(copied)) as family:
        family.choose_layout("mean", may_pad=True)
        assert family.layout == "single"


def test_only_what_the_graph_refuses_makes_pairs_run_one_by_one(
    exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds = OnnxFamily._feeds

    def refused(family: OnnxFamily, batch: Any) -> Any:
        kind = np.int64 if len(batch) == 1 else np.int32  # which the graph does not take
        return {name: array.astype(kind) for name, array in feeds(family, batch).items()}

    def faulty(family: OnnxFamily, batch: Any) -> Any:
        return feeds(family, batch if len(batch) == 1 else None)  # type: ignore[arg-type]

    with closing(open_family(exported["bert"])) as family:
        monkeypatch.setattr(OnnxFamily, "_feeds", refused)
        family.choose_layout("bert", may_pad=True)
        assert family.layout == "single"
        monkeypatch.setattr(OnnxFamily, "_feeds", faulty)
        with pytest.raises(TypeError):
            family.choose_layout("bert", may_pad=True)


def test_equal_pairs_and_long_passages_through_a_reranker(exported: dict[str, Path]) -> None:
    with Reranker(model=str(exported["bert"]), device="cpu", max_length=64) as reranker:
        ranked = reranker.rank(QUERY, [TEXTS[0], "panda " * 300, TEXTS[0]])
        stats = reranker.stats()
    assert stats.family == "onnx"
    assert (stats.scored_pairs, stats.truncated_pairs) == (2, 1)
    by_index = {passage.index: passage for passage in ranked}
    assert by_index[0].score == by_index[2].score
    assert by_index[1].truncated_tokens > 200


def test_closing_twice_is_safe(exported: dict[str, Path]) -> None:
    family = open_family(exported["bert"])
    family.close()
    family.close()


def test_the_hub_layout_and_the_default_graph(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    (copied / "onnx").mkdir()
    for file in copied.glob("model.onnx*"):
        file.rename(copied / "onnx" / file.name)
    for other in ("model_O4.onnx", "a.onnx"):
        (copied / "onnx" / other).write_bytes(b"not read")
    with caplog.at_level(logging.INFO, logger="flag_rerank_integrations"):
        assert find_weights(copied) == copied / "onnx" / "model.onnx"
    assert "model.onnx is used" in caplog.text
    with closing(open_family(copied)) as family:
        assert len(family.forward(family.encode(PAIRS))) == len(PAIRS)


def test_two_labels_are_refused(copied: Path) -> None:
    write_graph(copied, output="logits", width=2)
    with pytest.raises(ModelLoadError, match="has 2 labels: it is a classifier"):
        open_family(copied)


def test_an_embedding_model_is_refused(copied: Path) -> None:
    write_graph(copied, output="last_hidden_state", per_token=True, width=8)
    with pytest.raises(ModelLoadError, match=r"last_hidden_state .*not a reranker"):
        open_family(copied)


def test_logits_per_token_are_refused(copied: Path) -> None:
    write_graph(copied, output="logits", per_token=True, width=8)
    with pytest.raises(ModelLoadError, match="a reranker gives one per pair"):
        open_family(copied)


def test_a_sentence_embedding_is_refused(copied: Path) -> None:
    write_graph(copied, output="sentence_embedding", width=8)
    with pytest.raises(ModelLoadError, match=r"sentence_embedding .*not a reranker"):
        open_family(copied)


def test_one_score_under_another_name_is_taken(copied: Path) -> None:
    write_graph(copied, output="score")
    with closing(open_family(copied)) as family:
        (pair,) = family.encode([("a", "b")])
        assert family.forward([pair])[0] == pytest.approx(np.mean(pair.ids))


def test_a_broken_graph_is_refused(copied: Path) -> None:
    (copied / "model.onnx").write_bytes(b"\x08\x07 this is no graph")
    with pytest.raises(ModelLoadError, match=r"could not load .*model\.onnx"):
        open_family(copied)


def test_a_directory_without_a_graph_is_refused(tiny: Callable[[str], str]) -> None:
    with pytest.raises(ModelLoadError, match=r"no \*\.onnx file"):
        open_family(Path(tiny("bert")))


def test_a_missing_tokenizer_is_refused(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    with pytest.raises(ModelLoadError, match=r"no tokenizer\.json"):
        open_family(copied)


def test_without_config_json_the_tokenizer_tells_the_length(copied: Path) -> None:
    (copied / "config.json").unlink()
    (copied / "tokenizer_config.json").write_text('{"model_max_length": 100}', encoding="utf-8")
    with closing(open_family(copied)) as family:
        assert family.max_length == 100


@pytest.mark.parametrize(
    "options, words",
    [
        ({"max_length": 300}, "max_length=300 is above the 256 tokens"),
        ({"dtype": "float16"}, "an ONNX graph has its own data types"),
        ({"prompt": "Rank this."}, "takes no prompt"),
    ],
)
def test_options_a_graph_cannot_take_are_refused(
    options: dict[str, object], words: str, exported: dict[str, Path]
) -> None:
    with pytest.raises(ConfigError, match=words):
        open_family(exported["bert"], **options)


@pytest.mark.parametrize("device", [Device("mps"), Device("npu", 0), Device("xpu", 1)], ids=str)
def test_devices_without_a_provider_are_refused(device: Device, exported: dict[str, Path]) -> None:
    with pytest.raises(DeviceError, match=f"not on {device}"):
        open_family(exported["bert"], device)


def test_cuda_is_never_replaced_by_the_cpu_in_silence(exported: dict[str, Path]) -> None:
    # No machine has a hundred GPUs, whichever build of onnxruntime is installed.
    with pytest.raises(DeviceError, match="cuda:99"):
        open_family(exported["bert"], Device("cuda", 99))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_no_more_threads_than_cpus_this_process_may_use() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from flag_rerank_integrations.families.onnx_graph import cpu_count\n"
        "print(cpu_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize("share, threads", [("1", 1), ("3", 3), ("3,1", 3), ("99", 8), ("", 8), ("0", 8), ("many", 8)])
def test_no_more_threads_than_a_worker_s_share(monkeypatch: pytest.MonkeyPatch, share: str, threads: int) -> None:
    """Workers that share the cores are told by OMP_NUM_THREADS, which onnxruntime does not read."""
    monkeypatch.setattr(onnx_graph, "available_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", share)
    assert onnx_graph.cpu_count() == threads


def test_missing_onnxruntime_names_the_extra(exported: dict[str, Path]) -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from flag_rerank_integrations import Reranker\n"
        f"Reranker(model={str(exported['bert'])!r}, device='cpu')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("flag_rerank_integrations.errors.ModelLoadError")
    assert 'pip install "flag-rerank-integrations[onnx]"' in error
