"""FlagRerankPostprocessor's model: shared, loaded once and late, freed, and never carried in copies."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index_tools import QUERY, TEXTS, CallbackLog, nodes_of, through_json, through_pickle
from tiny_models import SPECS, build

from flag_rerank_integrations import RerankConfig, Reranker
from flag_rerank_integrations.errors import ConfigError, ModelLoadError
from flag_rerank_integrations.llama_index import FlagRerankPostprocessor

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def reranker(tiny: Any) -> Iterator[Reranker]:
    with Reranker(tiny("bert"), device="cpu", normalize=True) as live:
        yield live


def test_a_shared_reranker_lends_its_options_and_stays_open(reranker: Reranker) -> None:
    postprocessor = FlagRerankPostprocessor(reranker=reranker, top_n=1)
    assert postprocessor.reranker is postprocessor.warm_up() is reranker
    assert (postprocessor.config, postprocessor.model) == (reranker.config, reranker.config.model)
    assert "reranker" not in postprocessor.to_dict()
    assert "reranker" not in repr(postprocessor)
    postprocessor.close()
    assert len(postprocessor.postprocess_nodes(nodes_of(TEXTS), query_str=QUERY)) == 1


@pytest.mark.parametrize("way", [through_json, through_pickle, copy.deepcopy])
def test_a_stored_postprocessor_loads_the_shared_model_anew(
    reranker: Reranker, way: Callable[[Any], FlagRerankPostprocessor]
) -> None:
    original = FlagRerankPostprocessor(reranker=reranker, top_n=2)
    restored = way(original)
    assert (restored.reranker, restored.config, restored.top_n) == (None, reranker.config, 2)
    ranked, again = (p.postprocess_nodes(nodes_of(TEXTS), query_str=QUERY) for p in (original, restored))
    assert [item.node_id for item in again] == [item.node_id for item in ranked]
    assert [item.score for item in again] == pytest.approx([item.score for item in ranked], abs=1e-5)
    assert restored.warm_up() is not reranker
    restored.close()


async def test_anything_that_ranks_can_be_shared_but_not_stored(reranker: Reranker) -> None:
    class Remote:
        rank, arank = reranker.rank, reranker.arank

    postprocessor = FlagRerankPostprocessor(reranker=Remote(), top_n=1)
    expected = FlagRerankPostprocessor(reranker=reranker, top_n=1).postprocess_nodes(nodes_of(TEXTS), query_str=QUERY)
    assert postprocessor.config is None
    assert postprocessor.postprocess_nodes(nodes_of(TEXTS), query_str=QUERY) == expected
    assert await postprocessor.apostprocess_nodes(nodes_of(TEXTS), query_str=QUERY) == expected
    for store in (FlagRerankPostprocessor.to_dict, FlagRerankPostprocessor.to_json, pickle.dumps, copy.deepcopy):
        with pytest.raises(ConfigError, match="shared Remote has no RerankConfig"):
            store(postprocessor)
    assert copy.copy(postprocessor).reranker is postprocessor.reranker
    assert postprocessor.model_copy(update={"reranker": reranker}).config == reranker.config


def test_pickles_and_deep_copies_carry_neither_model_nor_handlers(tiny: Any) -> None:
    handler = CallbackLog()
    manager = CallbackManager([handler])
    postprocessor = FlagRerankPostprocessor(model=tiny("bert"), device="cpu", callback_manager=manager)
    live = postprocessor.warm_up()
    for copied in (through_pickle(postprocessor), copy.deepcopy(postprocessor), postprocessor.model_copy(deep=True)):
        assert handler not in copied.callback_manager.handlers
        assert copied.warm_up() is not live
        copied.close()
    assert len(pickle.dumps(postprocessor)) < 1000
    postprocessor.close()


def test_a_subclass_keeps_its_own_fields_in_copies() -> None:
    class Tagged(FlagRerankPostprocessor):
        tags: Any

    original = Tagged(tags=["a"], top_n=2, model="some/model")
    shallow, deep = copy.copy(original), copy.deepcopy(original)
    deep.tags.append("b")
    assert (type(deep), deep.tags, deep.top_n, deep.model) == (Tagged, ["a", "b"], 2, "some/model")
    assert shallow.tags is original.tags
    assert original.tags == Tagged.from_dict(original.to_dict()).tags == ["a"]


def test_a_shallow_copy_shares_the_model_until_an_option_changes(tiny: Any) -> None:
    postprocessor = FlagRerankPostprocessor(model=tiny("bert"), device="cpu", top_n=2)
    shared = postprocessor.model_copy(update={"top_n": 3})
    assert (postprocessor.top_n, shared.top_n) == (2, 3)
    assert shared.warm_up() is copy.copy(postprocessor).warm_up() is postprocessor.warm_up()
    other = postprocessor.model_copy(update={"normalize": True})
    assert (other.top_n, other.config) == (2, postprocessor.config.replace(normalize=True))
    assert other.warm_up() is not postprocessor.warm_up()
    for wrong in ({"top_n": -1}, {"dtype": "float8"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            postprocessor.model_copy(update=wrong)
    for each in (postprocessor, other):
        each.close()


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Make threads take turns so often that a missing lock shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless_threads")
@pytest.mark.parametrize("attempt", range(5))
def test_threads_that_start_together_load_one_model(tiny: Any, attempt: int) -> None:
    postprocessor = FlagRerankPostprocessor(model=tiny("bert"), device="cpu")
    loaded, off = set(), []

    def warm_up() -> None:
        while not off:  # a lock to wait at would let them off one by one
            pass
        loaded.add(postprocessor.warm_up())

    threads = [threading.Thread(target=warm_up) for _ in range(16)]
    for thread in threads:
        thread.start()
    off.append(True)
    for thread in threads:
        thread.join()
    assert len(loaded) == 1
    postprocessor.close()


async def test_a_load_that_failed_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "late"
    postprocessor = FlagRerankPostprocessor(model=str(path), device="cpu", local_files_only=True)
    for _ in range(2):
        with pytest.raises(ModelLoadError):
            postprocessor.postprocess_nodes(nodes_of(TEXTS), query_str=QUERY)
        with pytest.raises(ModelLoadError):
            await postprocessor.awarm_up()
    build(SPECS["bert"], path)
    assert len(await postprocessor.apostprocess_nodes(nodes_of(TEXTS), query_str=QUERY)) == len(TEXTS)
    postprocessor.close()


async def test_close_frees_the_own_model_and_the_next_use_loads_it_again(tiny: Any) -> None:
    postprocessor = FlagRerankPostprocessor(model=tiny("bert"), device="cpu")
    postprocessor.close()
    first = await postprocessor.awarm_up()
    postprocessor.close()
    postprocessor.close()
    assert "closed" in repr(first)
    assert len(postprocessor.postprocess_nodes(nodes_of(TEXTS), query_str=QUERY)) == len(TEXTS)
    assert postprocessor.warm_up() is not first
    postprocessor.close()


def test_warm_up_starts_a_shared_reranker_that_has_not_loaded(tiny: Any) -> None:
    live = Reranker.from_config(RerankConfig(model=tiny("bert"), device="cpu"), start=False)
    assert FlagRerankPostprocessor(reranker=live).warm_up() is live
    assert ", loaded>" in repr(live)
    live.close()


def run(code: str, **environment: str) -> str:
    """Run Python code in a process of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_heavy_is_imported_before_a_model_is_needed() -> None:
    code = """
import sys
from flag_rerank_integrations.llama_index import FlagRerankPostprocessor
from llama_index.core.schema import QueryBundle
postprocessor = FlagRerankPostprocessor(model="some/model", device="cuda:1", normalize=True, top_n=3)
FlagRerankPostprocessor.from_json(postprocessor.to_json()).postprocess_nodes([], QueryBundle("a query"))
heavy = {"torch", "transformers", "onnxruntime", "sentence_transformers", "langchain", "langchain_core"}
print(sorted(heavy & set(sys.modules)))
"""
    assert run(code) == "[]"


def test_without_llama_index_the_error_names_the_extra() -> None:
    code = """
import sys
sys.modules["llama_index"] = None
try:
    import flag_rerank_integrations.llama_index
except ModuleNotFoundError as error:
    print(error)
"""
    assert run(code).endswith("pip install 'flag-rerank-integrations[llama-index]'")


def test_the_postprocessor_is_found_where_llama_index_users_look() -> None:
    code = """
from flag_rerank_integrations.llama_index import FlagRerankPostprocessor as ours
from llama_index.postprocessor.flag_rerank import FlagRerankPostprocessor, __all__
import llama_index.core
print(FlagRerankPostprocessor is ours, __all__)
"""
    paths = os.pathsep.join([str(ROOT / "namespace"), str(ROOT)])
    assert run(code, PYTHONPATH=paths) == "True ['FlagRerankPostprocessor']"
