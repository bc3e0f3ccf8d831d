"""The option `ray` and its short form in `device`: what they accept, refuse, and carry through JSON."""

from __future__ import annotations

import copy
import pickle
import socket
import subprocess
import sys
from typing import Any

import pytest

from flag_rerank_integrations import RayOptions, RerankConfig, Reranker
from flag_rerank_integrations.errors import ConfigError, DeviceError
from flag_rerank_integrations.langchain import FlagRerankCompressor
from flag_rerank_integrations.llama_index import FlagRerankPostprocessor
from flag_rerank_integrations.ray_options import ray_options

ALL = RayOptions(
    num_workers=4,
    num_gpus=0.5,
    num_cpus=2,
    resources={"NPU": 1},
    address="10.0.0.1:6379",
    runtime_env={"pip": ["x"], "env_vars": {"A": "1"}},
    placement_timeout=20,
)


def asked(**options: Any) -> RayOptions | None:
    """How a Reranker with these options runs."""
    config = RerankConfig(**options)
    return ray_options(config.device, config.ray)


def test_a_device_is_the_short_form() -> None:
    assert asked(device="ray:4") == asked(ray={"num_workers": 4}) == RayOptions(num_workers=4)
    assert asked(device="ray") == asked(device=" RAY:1 ") == asked(ray={}) == RayOptions()
    assert asked(device="ray:4", ray=ALL) == ALL
    assert asked(device="cpu:2") is None


def test_all_options_survive_json_pickle_and_copies() -> None:
    config = RerankConfig(model="any", ray=ALL)
    for again in (
        RerankConfig.from_json(config.to_json()),
        RerankConfig.from_dict(config.to_dict()),
        pickle.loads(pickle.dumps(config)),
        copy.deepcopy(config),
        config.replace(),
    ):
        assert again == config
        assert hash(again) == hash(config)
        assert again.ray == ALL
    assert RerankConfig().to_dict()["ray"] is None


@pytest.mark.parametrize("wrapper", [FlagRerankCompressor, FlagRerankPostprocessor])
@pytest.mark.parametrize("given", [ALL, ALL.to_dict()], ids=["object", "dict"])
def test_wrappers_carry_it(wrapper: Any, given: Any) -> None:
    made = wrapper(model="any", ray=given)
    assert made.config.ray == ALL
    assert wrapper.model_validate_json(made.model_dump_json()).config == made.config
    assert wrapper(**made.model_dump()).config == made.config


def test_it_cannot_be_changed_from_outside() -> None:
    given: dict[str, Any] = {"pip": ["x"]}
    options = RayOptions(runtime_env=given)
    given["pip"].append("y")
    assert options.runtime_env == {"pip": ["x"]}
    with pytest.raises(AttributeError):
        options.num_workers = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "name, value",
    [
        ("num_workers", 0),
        ("num_workers", True),
        ("num_workers", 2.0),
        ("num_gpus", -1),
        ("num_gpus", "1"),
        ("num_gpus", float("nan")),
        ("num_cpus", None),
        ("num_cpus", float("inf")),
        ("resources", ["NPU"]),
        ("resources", {"NPU": "one"}),
        ("resources", {1: 1}),
        ("address", ""),
        ("address", 6379),
        ("runtime_env", "pip"),
        ("runtime_env", {"pip": {"a set"}}),
        ("placement_timeout", 0),
        ("placement_timeout", None),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^ray\.{name}.* must be "):
        RerankConfig(ray={name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [4, "ray:4", [4], True], ids=repr)
def test_what_is_no_options_at_all_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^ray must be RayOptions"):
        RerankConfig(ray=value)


def test_unknown_names_are_refused_beside_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"Unknown option 'workers' in ray; there are num_workers, num_gpus"):
        RerankConfig(ray={"workers": 4})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"device": "ray:0"}, "asks for no worker"),
        ({"device": "ray:4", "ray": {"num_workers": 2}}, "4 workers and ray=... for 2"),
        ({"device": "cuda:1", "ray": {}}, "leave device out"),
        ({"device": ["cpu", "cpu"], "ray": {}}, "leave device out"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RerankConfig(**options)


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(DeviceError, match=f"There is no Ray at '127.0.0.1:{port}'"):
        Reranker("quickstart", ray={"address": f"127.0.0.1:{port}"})


def test_without_ray_installed_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from flag_rerank_integrations import Reranker\n"
        "from flag_rerank_integrations.errors import ConfigError\n"
        "try: Reranker('quickstart', device='ray:2')\n"
        "except ConfigError as error: print(error)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'flag-rerank-integrations[ray]'" in answer.stdout, answer.stderr
