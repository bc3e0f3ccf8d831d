"""The options that send a command's pairs to a server."""

from __future__ import annotations

import argparse
from typing import Final

from flag_rerank_integrations.cli.options import MODEL_OPTIONS
from flag_rerank_integrations.errors import ConfigError
from flag_rerank_integrations.remote.config import RemoteConfig
from flag_rerank_integrations.remote.forms import FORMS

__all__ = ["add_remote_options", "remote_config_from"]

_OWN: Final[dict[str, str]] = {
    "url": "address of a rerank server to ask instead of loading a model; --model is then the server's name for it",
    "form": f"what the server speaks: {', '.join(map(repr, FORMS))} (default: found out)",
    "api-key-env": "name of the environment variable that holds the server's API key",
}
_SHARED: Final = ("model", "normalize", "long_passages", "timeout")


def add_remote_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `RemoteConfig` that make sense on a command line; only those given are set."""
    group = parser.add_argument_group("server")
    for name, text in _OWN.items():
        group.add_argument(f"--{name}", default=argparse.SUPPRESS, metavar=name.upper().rpartition("-")[2], help=text)


def remote_config_from(arguments: argparse.Namespace) -> RemoteConfig | None:
    """Make the config that the arguments ask for; None where they name no server.

    Raises:
        ConfigError: An option has a wrong value, or does not go with the others.
    """
    own = [name.replace("-", "_") for name in _OWN if hasattr(arguments, name.replace("-", "_"))]
    if "url" not in own:
        if own:
            msg = f"--{own[0].replace('_', '-')} needs --url"
            raise ConfigError(msg)
        return None
    alien = [name for name in MODEL_OPTIONS if name not in _SHARED and hasattr(arguments, name)]
    if alien:
        msg = f"--{alien[0].replace('_', '-')} is up to the server that --url names"
        raise ConfigError(msg)
    names = (*own, *(name for name in _SHARED if hasattr(arguments, name)))
    return RemoteConfig.from_dict({name: getattr(arguments, name) for name in names})
