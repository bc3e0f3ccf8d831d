"""Names that are no models and checkpoints with nonsense in them are one error, whatever a library makes of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import TinyModels

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import ModelLoadError

Edit = Callable[..., str]


@pytest.fixture
def edited(tiny: TinyModels, tmp_path: Path) -> Edit:
    """Copies of small checkpoints with other values in their config.json."""

    def make(name: str, **changes: Any) -> str:
        path = Path(shutil.copytree(tiny(name), tmp_path / name, dirs_exist_ok=True))
        file = path / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        return str(path)

    return make


@pytest.mark.parametrize(
    "model", ["./" + "x" * 300, "x" * 5000, "~no-such-user/model", "a\0b"], ids=["file name", "path", "home", "nul"]
)
def test_a_name_that_can_be_no_path_is_refused(model: str) -> None:
    with pytest.raises(ModelLoadError, match="is neither a "):
        Reranker(model, device="cpu", local_files_only=True)


def test_a_project_with_a_graph_somewhere_below_is_no_model(tmp_path: Path) -> None:
    deep = tmp_path / "venv" / "package" / "model.onnx"
    deep.parent.mkdir(parents=True)
    deep.write_bytes(b"")
    with pytest.raises(ModelLoadError, match=r"has no config\.json: it is not a model"):
        Reranker(str(tmp_path), device="cpu")


@pytest.mark.parametrize("architectures", [{"a": 1}, 3, [None], [], None], ids=repr)
def test_architectures_that_name_nothing_are_refused(edited: Edit, architectures: Any) -> None:
    with pytest.raises(ModelLoadError, match="names no architecture"):
        Reranker(edited("bert", architectures=architectures), device="cpu")


@pytest.mark.parametrize(
    "name, changes, said",
    [
        ("bert", {"hidden_size": "32"}, "StrictDataclass.*hidden_size.*int"),
        ("bert", {"hidden_size": 0}, "ZeroDivisionError"),
        ("bert", {"num_attention_heads": 0}, "ZeroDivisionError"),
        ("bert", {"pad_token_id": 99_999}, "AssertionError: Padding_idx must be within"),
        ("bert", {"sliding_window": "a"}, "TypeError"),
        ("xlm-roberta", {"pad_token_id": None}, "TypeError"),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value),
)
def test_whatever_a_library_raises_in_the_middle_of_a_load_is_a_load_error(
    edited: Edit, name: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelLoadError, match=f"could not be loaded .*{said}") as caught:
        Reranker(edited(name, **changes), device="cpu", max_length=64)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_config_nested_too_deeply_is_not_readable(edited: Edit) -> None:
    path = edited("bert")
    (Path(path) / "config.json").write_text("[" * 100_000)
    with pytest.raises(ModelLoadError, match=r"config\.json of the model is not readable JSON"):
        Reranker(path, device="cpu")
