"""Cross-encoder reranking for LangChain and LlamaIndex on the devices you choose.

The public names are resolved on first use (PEP 562): importing this package
imports neither torch nor a framework.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flag_rerank_integrations.config import RerankConfig
    from flag_rerank_integrations.ray_options import RayOptions
    from flag_rerank_integrations.remote import RemoteConfig, RemoteReranker
    from flag_rerank_integrations.reranker import Reranker
    from flag_rerank_integrations.results import RankedPassage, RerankStats

__version__ = "0.1.0"
__all__ = [
    "RankedPassage",
    "RayOptions",
    "RemoteConfig",
    "RemoteReranker",
    "RerankConfig",
    "RerankStats",
    "Reranker",
    "__version__",
]

# Who configures logging hears this package's loggers; to everybody else they are silent.
logging.getLogger(__name__).addHandler(logging.NullHandler())

_HOMES = {
    "RankedPassage": "results",
    "RayOptions": "ray_options",
    "RemoteConfig": "remote",
    "RemoteReranker": "remote",
    "RerankConfig": "config",
    "RerankStats": "results",
    "Reranker": "reranker",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute may be of any type
    """Import the module that owns a public name when the name is first used."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, whether or not they have been used yet."""
    return sorted({*globals(), *__all__})
