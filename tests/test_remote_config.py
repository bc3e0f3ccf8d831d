"""The options of a RemoteReranker: checked when given, told in JSON, and the key nowhere."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flag_rerank_integrations import RemoteConfig
from flag_rerank_integrations.errors import ConfigError
from flag_rerank_integrations.remote.secret import Secret

URL = "http://localhost:8080"
KEY = "sk-very-secret-0123456789"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8080",
        "ftp://host",
        "http://",
        "http:///path",
        "http://host:port",
        "http://host:99999",
        "http://ho st",
        "http://host/a b",
        "http://host\n",
        "http://[::1",
        None,
        8080,
        b"http://host",
    ],
)
def test_what_is_no_address_is_refused(url: Any) -> None:
    with pytest.raises(ConfigError, match="url must be the address of a server"):
        RemoteConfig(url)


@pytest.mark.parametrize(
    "url", [f"http://{KEY}@host", f"http://user:{KEY}@host", f"http://host/?key={KEY}", f"http://host/#{KEY}"]
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="a key goes in api_key or api_key_env") as caught:
        RemoteConfig(url)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "url", [URL, "https://host", "http://host/prefix/v1", "http://[::1]:80", "http://bücher.example"]
)
def test_addresses_lose_their_last_slash(url: str) -> None:
    assert RemoteConfig(url).url == RemoteConfig(f"{url}/").url == url


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"form": "TEI"}, "form must be one of 'auto', 'tei', 'infinity', 'vllm', 'jina', 'cohere', not 'TEI'"),
        ({"form": None}, "form must be one of"),
        ({"form": ["tei"]}, "form must be one of"),
        ({"model": ""}, "model must be a non-empty string or None"),
        ({"model": 3}, "model must be a non-empty string or None"),
        ({"api_key": ""}, "api_key must be a non-empty string of printable ASCII characters"),
        ({"api_key": 3}, "api_key must be"),
        ({"api_key": "two\nlines"}, "api_key must be"),
        ({"api_key": "schlüssel"}, "api_key must be"),
        ({"api_key_env": ""}, "api_key_env must be"),
        ({"api_key": "k", "api_key_env": "K"}, "api_key and api_key_env both name a key"),
        ({"normalize": 1}, "normalize must be True, False or None"),
        ({"normalize": "yes"}, "normalize must be"),
        ({"long_passages": "windows"}, "long_passages must be one of 'truncate', 'error'"),
        ({"max_passages": 0}, "max_passages must be a whole number of at least 1"),
        ({"max_passages": "all"}, "max_passages must be"),
        ({"max_passages": True}, "max_passages must be"),
        ({"max_concurrency": 0}, "max_concurrency must be"),
        ({"retries": -1}, "retries must be a whole number of at least 0"),
        ({"retries": 1.5}, "retries must be"),
        ({"timeout": 0}, "timeout must be a positive number of seconds"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"timeout": float("inf")}, "timeout must be"),
        ({"timeout": "1"}, "timeout must be"),
        ({"connect_timeout": None}, "connect_timeout must be"),
        ({"progress": 1}, "progress must be"),
        ({"device": "cpu"}, "Unknown option 'device'; the options are url, form"),
        ({"form": "jina", "normalize": True}, "form='jina' needs a model"),
        ({"form": "cohere", "model": "m"}, "normalize=False asks for logits, which a server of form='cohere' cannot"),
        ({"form": "infinity", "long_passages": "error"}, "'error' is not possible with form='infinity'"),
        ({"form": "jina", "model": "m", "normalize": None, "long_passages": "error"}, "not possible with form='jina'"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        RemoteConfig.from_dict({"url": URL, **wrong})
    with pytest.raises(ConfigError, match=told):
        RemoteConfig(URL).replace(**wrong)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "null", '{"form": "tei"}', '{"url": 1}', '{"url": "http://h", "x": 1}']
)
def test_json_that_is_no_config_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        RemoteConfig.from_json(text)


OPTIONS = st.fixed_dictionaries(
    {"url": st.sampled_from([URL, "https://host/v1/rerank"])},
    optional={
        "form": st.sampled_from(["auto", "tei", "vllm"]),
        "model": st.none() | st.text("aß模/ ", min_size=1),
        "api_key_env": st.none() | st.text("aß模/ ", min_size=1),
        "normalize": st.none() | st.booleans(),
        "long_passages": st.sampled_from(["truncate", "error"]),
        "max_passages": st.just("auto") | st.integers(1, 10**6),
        "max_concurrency": st.integers(1, 1000),
        "retries": st.integers(0, 100),
        "timeout": st.none() | st.floats(0.001, 1e6),
        "connect_timeout": st.floats(0.001, 1e6),
        "progress": st.booleans(),
    },
)


@settings(deadline=None)  # a busy machine is no fault
@given(OPTIONS)
def test_options_survive_json_pickle_and_copies(options: dict[str, Any]) -> None:
    config = RemoteConfig(**options)
    assert RemoteConfig.from_json(config.to_json()) == config
    assert RemoteConfig.from_dict(config.to_dict()) == config
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config.replace() == config
    assert json.loads(config.to_json()) == config.to_dict()


def test_the_key_is_nowhere_but_where_it_is_needed() -> None:
    config = RemoteConfig(URL, api_key=KEY)
    shown = [repr(config), str(config), config.to_json(), str(config.to_dict()), str(dataclasses.asdict(config))]
    assert not [text for text in shown if KEY in text]
    assert isinstance(config.api_key, Secret)
    assert config.api_key.reveal() == KEY
    assert pickle.loads(pickle.dumps(config)).api_key == config.api_key
    assert config == RemoteConfig(URL, api_key=config.api_key) != RemoteConfig(URL)
    assert len({config, RemoteConfig(URL, api_key=config.api_key), RemoteConfig(URL)}) == 2
    assert "api_key" not in config.to_dict()


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RemoteConfig(URL).form = "tei"  # type: ignore[misc]
