"""Loading from a hub: a real server on the loopback interface plays it, and fails in every way there is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest
import torch
from hub_server import Hub, Repository
from safetensors.torch import load_file

from flag_rerank_integrations import RerankConfig, Reranker
from flag_rerank_integrations.errors import ModelLoadError
from flag_rerank_integrations.families.checkpoint import Checkpoint
from flag_rerank_integrations.families.weight_files import check_weight_files

NAME = "owner/tiny-reranker"
SECRET = "hf_of_the_test"  # noqa: S105 - the test server's
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one model, and a client that has no token and does not wait between tries."""
    server = Hub()
    folder = shutil.copytree(tiny("bert"), tmp_path / "served")
    server.repositories[NAME] = Repository(Path(folder))
    address = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    yield server
    server.close()


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return {"cache_dir": str(tmp_path / "cache"), "device": "cpu"}


def opened(options: dict[str, Any], model: str = NAME, **more: Any) -> Checkpoint:
    return Checkpoint.open(RerankConfig(model=model, **options, **more))


def refused(options: dict[str, Any], match: str, model: str = NAME, **more: Any) -> None:
    with pytest.raises(ModelLoadError, match=match):
        opened(options, model, **more)


def served(hub: Hub) -> Repository:
    return hub.repositories[NAME]


def downloads(hub: Hub) -> list[str]:
    return [path.rpartition("/")[2] for path in hub.requests if path.startswith("GET") and "/resolve/" in path]


def test_a_model_is_fetched_once_and_then_needs_no_network(hub: Hub, tiny: Any, options: dict[str, Any]) -> None:
    (served(hub).folder / "pytorch_model.bin").write_bytes(b"not wanted")
    (served(hub).folder / "evil.py").write_text("raise SystemExit")
    with Reranker(NAME, **options) as fetched, Reranker(tiny("bert"), device="cpu") as local:
        pairs = [("panda", "a bear"), ("panda", "Berlin")]
        assert fetched.score(pairs) == local.score(pairs)
    assert sorted(downloads(hub)) == sorted({"config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"})
    hub.close()
    assert opened(options, local_files_only=True).architecture == "BertForSequenceClassification"
    assert opened(options).architecture == "BertForSequenceClassification", "a hub that is down does not matter"


def test_code_comes_along_only_where_it_is_trusted(hub: Hub, options: dict[str, Any]) -> None:
    (served(hub).folder / "modeling.py").write_text("")
    assert not opened(options).has("*.py")
    assert opened(options, trust_remote_code=True).has("*.py")


def test_the_endpoint_and_the_token_come_from_the_environment(hub: Hub, options: dict[str, Any]) -> None:
    """In a process of its own, as a user would have it."""
    served(hub).token = SECRET
    code = (
        "from flag_rerank_integrations import RerankConfig\n"
        "from flag_rerank_integrations.families.checkpoint import Checkpoint\n"
        f"print(Checkpoint.open(RerankConfig(model={NAME!r}, cache_dir={options['cache_dir']!r})).architecture)\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": SECRET}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "BertForSequenceClassification", found.stderr


def test_a_private_model_is_told_apart_by_whether_there_is_a_token(
    hub: Hub, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    served(hub).token = SECRET
    refused(options, r"no 'owner/tiny-reranker' on the hub.*needs HF_TOKEN \(none is set\)")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused(options, r"needs HF_TOKEN \(the one that is set was not accepted\)")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert opened(options).architecture


def test_a_gated_model_says_how_to_get_in(hub: Hub, options: dict[str, Any]) -> None:
    served(hub).token, served(hub).gated = SECRET, True
    refused(options, r"is gated\. Accept its terms on its page, and set HF_TOKEN .*\(none is set\)")


def test_no_such_model_and_no_such_revision(hub: Hub, options: dict[str, Any]) -> None:
    refused(options, r"no 'owner/other' on the hub, nor a local directory", "owner/other")
    refused(options, r"has no revision 'v9'\. Give one of its branches", revision="v9")
    served(hub).revisions = ("main", "v9")
    assert opened(options, revision="v9").architecture


@pytest.mark.parametrize("name", ["a/b/c", "owner/a model", "-x", "owner/.."])
def test_what_cannot_be_a_hub_id(hub: Hub, options: dict[str, Any], name: str) -> None:
    refused(options, "neither a local directory nor a hub id", name)
    assert not hub.requests


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_that_is_out_of_order(hub: Hub, options: dict[str, Any], status: int) -> None:
    hub.failing = status
    refused(options, rf"not in the cache .*{status}")


def test_a_hub_that_is_down(hub: Hub, options: dict[str, Any]) -> None:
    hub.close()
    refused(options, rf"not in the cache .* hub at {hub.url} cannot be reached .*ConnectError.*Check the network")


def test_without_network_by_wish(hub: Hub, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    refused(options, "not in the cache .* local_files_only=True forbids the network", local_files_only=True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused(options, "not in the cache .* HF_HUB_OFFLINE forbids the network")
    assert not hub.requests


def test_a_download_that_breaks_off_goes_on_where_it_stopped(hub: Hub, options: dict[str, Any]) -> None:
    whole = served(hub).folder / WEIGHTS
    for tries in range(20, 0, -1):
        served(hub).cut_short = {WEIGHTS: 1000} if tries else {}
        try:
            opened(options)
            break
        except ModelLoadError as error:
            assert "Try again" in str(error)  # noqa: PT017 - how often the client itself tries again is its affair
    found = opened(options, local_files_only=True)
    assert (found.path / WEIGHTS).read_bytes() == whole.read_bytes()


def cached(options: dict[str, Any]) -> Path:
    """The snapshot of the model in the cache."""
    (folder,) = Path(options["cache_dir"]).glob("models--*/snapshots/*")
    return folder


def break_off(options: dict[str, Any]) -> None:
    """Leave the cache as a download leaves it that was killed: a blob half written, no link to it."""
    link = cached(options) / WEIGHTS
    blob = link.resolve()
    link.unlink()
    blob.rename(blob.with_name(blob.name + ".incomplete"))


def lose_blob(options: dict[str, Any]) -> None:
    """Leave a link to nothing."""
    (cached(options) / WEIGHTS).resolve().unlink()


@pytest.mark.parametrize("breaking", [break_off, lose_blob])
@pytest.mark.parametrize("listed", [True, False])
def test_half_a_cache_is_told_offline_and_mended_online(
    hub: Hub, options: dict[str, Any], breaking: Any, *, listed: bool
) -> None:
    opened(options)
    breaking(options)
    if not listed:  # older clients kept no list of what belongs to a snapshot
        for folder in Path(options["cache_dir"]).glob("models--*/trees"):
            shutil.rmtree(folder)
    with pytest.raises(ModelLoadError, match=r"only in part in the cache|links to a file|incomplete download"):
        Reranker(NAME, local_files_only=True, **options)
    with Reranker(NAME, **options) as mended:
        assert len(mended.score([("panda", "bear")])) == 1


def test_a_cache_that_cannot_be_written(hub: Hub, options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a directory")
    refused(options, "cannot be written to the cache .*Make room, or set cache_dir")


def test_a_full_disk_is_told(hub: Hub, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", full)
    refused(options, "cannot be written to the cache .*No space left.*cache_dir")


def test_pickles_alone_are_refused_unread_and_come_only_on_request(hub: Hub, options: dict[str, Any]) -> None:
    folder = served(hub).folder
    torch.save(load_file(str(folder / WEIGHTS)), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    refused(options, r"only as a pickle \(pytorch_model.bin\).*CVE-2025-32434, CVE-2026-24747.*allow_pickle=True")
    assert "pytorch_model.bin" not in downloads(hub)
    found = opened(options, allow_pickle=True)
    assert "pytorch_model.bin" in downloads(hub)
    assert check_weight_files(found.path, RerankConfig(allow_pickle=True)) is False
    hub.close()
    assert opened(options, allow_pickle=True).path == found.path
