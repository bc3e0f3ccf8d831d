"""A run's own description in its output directory: parts of two different runs are never mixed."""

from __future__ import annotations

import json
from typing import Any, Final

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.corpus.storage import Place
from flag_rerank_integrations.errors import ConfigError

__all__ = ["claim", "content_of"]

# Readers of directories pass over names that begin with an underscore.
_NAME: Final = "_run.json"
# Options that say where, how fast and how visibly scores are computed, but not which.
_NOT_CONTENT: Final = frozenset({"device", "ray", "progress", "timeout", "cache_dir", "local_files_only"})


def content_of(config: RerankConfig) -> dict[str, Any]:
    """Return the options of a config that scores depend on."""
    return {name: value for name, value in config.to_dict().items() if name not in _NOT_CONTENT}


def claim(output: Place, description: dict[str, Any]) -> list[str]:
    """Take an output directory for a run, a new one or the same as before.

    Args:
        output: The directory; it is made where it is missing.
        description: What the parts depend on, as JSON values.

    Returns:
        The names of the files that are there.

    Raises:
        ConfigError: The directory holds something else; nothing was changed.
    """
    names, place = output.names(), output / _NAME
    if _NAME in names:
        found = json.loads(place.read())
        different = [key for key in description if found.get(key) != description[key]]
        if different:
            msg = (
                f"{output.path!r} holds another run: its {' and '.join(different)} differ. "
                f"Choose another directory, or repeat that run as it was to resume it."
            )
            raise ConfigError(msg)
        for name in names:
            if name.startswith("."):  # what an interrupted run left behind
                (output / name).delete()
        return names
    foreign = [name for name in names if not name.startswith(".")]
    if foreign:
        msg = f"{output.path!r} holds files of something else, such as {foreign[0]!r}: choose a new directory."
        raise ConfigError(msg)
    output.system.create_dir(output.path, recursive=True)
    text = json.dumps(description, ensure_ascii=False, indent=1)
    place.write(lambda stream: stream.write(text.encode("utf-8", "backslashreplace")))
    return []
