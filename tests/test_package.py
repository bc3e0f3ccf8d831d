"""The package as a whole: its public names, what importing it costs, and its errors."""

from __future__ import annotations

import json
import pickle
import pkgutil
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points, version
from importlib.resources import files

import pytest

import flag_rerank_integrations
from flag_rerank_integrations import errors

PUBLIC = {
    "flag_rerank_integrations": [
        "RankedPassage",
        "RayOptions",
        "RemoteConfig",
        "RemoteReranker",
        "RerankConfig",
        "RerankStats",
        "Reranker",
        "__version__",
    ],
    "flag_rerank_integrations.remote": ["RemoteConfig", "RemoteReranker"],
    "flag_rerank_integrations.corpus": ["CorpusSummary", "RankRows", "rerank_corpus"],
    "flag_rerank_integrations.evaluation": [
        "Comparison",
        "DEFAULT_TOP_K",
        "Difference",
        "Evaluation",
        "JudgedSet",
        "Qrels",
        "QueryValues",
        "RanksMany",
        "Run",
        "ScoredPassage",
        "bm25_run",
        "default_measures",
        "evaluate",
        "paired_difference",
        "read_qrels",
        "read_run",
        "read_texts",
        "values_by_query",
        "write_run",
    ],
    "flag_rerank_integrations.langchain": [
        "FlagCrossEncoder",
        "FlagRerankCompressor",
        "FlagRerankRetriever",
        "RerankInput",
    ],
    "flag_rerank_integrations.llama_index": ["FlagRerankPostprocessor"],
    "flag_rerank_integrations.monitoring": ["OpenTelemetryMetrics", "PrometheusCollector", "capture_texts"],
    "llama_index.postprocessor.flag_rerank": ["FlagRerankPostprocessor"],
    "flag_rerank_integrations.testing": ["DocumentCompressorConformance", "NodePostprocessorConformance"],
    "flag_rerank_integrations.errors": [
        "ConfigError",
        "DeviceError",
        "InputError",
        "MissingExtraError",
        "ModelLoadError",
        "RerankError",
        "WorkerDied",
        "WorkerError",
        "WorkerTimeout",
    ],
}
HEAVY = ("torch", "transformers", "onnxruntime", "sentence_transformers", "ray")
FRAMEWORKS = ("langchain_core", "langchain_classic", "llama_index.core")
MONITORING = ("opentelemetry", "prometheus_client", "pynvml")
# What each import may not bring along.
LIGHT = {
    "flag_rerank_integrations": (*HEAVY, *FRAMEWORKS, "numpy"),
    "flag_rerank_integrations.config": (*HEAVY, *FRAMEWORKS, "numpy"),
    "flag_rerank_integrations.errors": (*HEAVY, *FRAMEWORKS, "numpy"),
    "flag_rerank_integrations.results": (*HEAVY, *FRAMEWORKS, "numpy"),
    "flag_rerank_integrations.remote": (*HEAVY, *FRAMEWORKS, "numpy", "pydantic", "httpx", "tokenizers"),
    "flag_rerank_integrations.wrapping": (*HEAVY, *FRAMEWORKS, "numpy", "pydantic"),
    "flag_rerank_integrations.cli": (*HEAVY, *FRAMEWORKS),
    "flag_rerank_integrations.monitoring": (*HEAVY, *FRAMEWORKS, "numpy", *MONITORING),
    "flag_rerank_integrations.base_reranker": (*HEAVY, *FRAMEWORKS, "numpy", *MONITORING),
    "flag_rerank_integrations.corpus": (*HEAVY, *FRAMEWORKS, "numpy", "pyarrow"),
    "flag_rerank_integrations.evaluation": (*HEAVY, *FRAMEWORKS, "numpy", "bm25s", "ir_measures"),
    "flag_rerank_integrations.testing": (*HEAVY, *FRAMEWORKS, "numpy", "pydantic"),
    "flag_rerank_integrations.langchain": (*HEAVY, "llama_index.core"),
    "flag_rerank_integrations.llama_index": (*HEAVY, "langchain_core", "langchain_classic"),
    "llama_index.postprocessor.flag_rerank": (*HEAVY, "langchain_core", "langchain_classic"),
}
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(flag_rerank_integrations.__path__, "flag_rerank_integrations.")
    if not module.name.endswith("__main__")
)


def modules_after(statements: str) -> set[str]:
    """Run statements in a fresh interpreter and return the modules it then holds."""
    code = f"import json, sys\n{statements}\nprint(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return set(json.loads(answer.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names(module: str) -> None:
    owner = import_module(module)
    assert sorted(owner.__all__) == PUBLIC[module]
    for name in owner.__all__:
        assert getattr(owner, name) is not None
        assert name in dir(owner)


def test_public_objects_are_the_ones_their_modules_define() -> None:
    from flag_rerank_integrations.config import RerankConfig
    from flag_rerank_integrations.reranker import Reranker
    from flag_rerank_integrations.results import RankedPassage

    assert flag_rerank_integrations.RerankConfig is RerankConfig
    assert flag_rerank_integrations.Reranker is Reranker
    assert flag_rerank_integrations.RankedPassage is RankedPassage


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Rerankr'"):
        flag_rerank_integrations.Rerankr  # noqa: B018 - reading the attribute is the test


@pytest.mark.parametrize("module", LIGHT)
def test_importing_is_light(module: str) -> None:
    assert not modules_after(f"import {module}").intersection(LIGHT[module])


@pytest.mark.parametrize("module", ["flag_rerank_integrations.langchain", "flag_rerank_integrations.llama_index"])
def test_using_a_wrappers_name_does_not_load_torch(module: str) -> None:
    name = PUBLIC[module][-1]
    assert not modules_after(f"from {module} import {name}").intersection(HEAVY)


def test_every_module_imports_and_names_what_it_exports() -> None:
    assert "flag_rerank_integrations.config" in MODULES
    for name in MODULES:
        module = import_module(name)
        assert module.__doc__, f"{name} has no docstring"
        missing = [public for public in getattr(module, "__all__", []) if not hasattr(module, public)]
        assert not missing, f"{name} exports {missing}"


def test_the_version_is_the_installed_one() -> None:
    assert flag_rerank_integrations.__version__ == version("flag-rerank-integrations")


def test_the_command_is_installed() -> None:
    (command,) = entry_points(group="console_scripts", name="flag-rerank")
    assert callable(command.load())


def test_type_hints_are_announced() -> None:
    assert files("flag_rerank_integrations").joinpath("py.typed").is_file()


def test_llama_index_stays_a_namespace() -> None:
    """A regular package of that name would hide every other integration."""
    import llama_index
    import llama_index.postprocessor

    assert llama_index.__file__ is None
    assert llama_index.postprocessor.__file__ is None


BUILTINS = {
    "ConfigError": ValueError,
    "DeviceError": RuntimeError,
    "InputError": ValueError,
    "MissingExtraError": ModuleNotFoundError,
    "ModelLoadError": OSError,
    "RerankError": Exception,
    "WorkerDied": errors.WorkerError,
    "WorkerError": RuntimeError,
    "WorkerTimeout": TimeoutError,
}


@pytest.mark.parametrize("name", errors.__all__)
def test_each_error_is_ours_and_the_nearest_builtin(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, errors.RerankError)
    assert issubclass(kind, BUILTINS[name])
    again = pickle.loads(pickle.dumps(kind("what went wrong")))
    assert type(again) is kind
    assert str(again) == "what went wrong"


def test_the_error_tree_is_drawn_in_full() -> None:
    assert errors.__doc__ is not None
    for name in errors.__all__:
        assert name in errors.__doc__
    assert issubclass(errors.WorkerDied, errors.WorkerError)
    assert issubclass(errors.MissingExtraError, errors.ConfigError)
    assert issubclass(errors.WorkerTimeout, errors.WorkerError)
