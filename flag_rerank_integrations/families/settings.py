"""Reading config.json value by value, with an error that names what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.errors import ModelLoadError
from flag_rerank_integrations.families.checkpoint import Checkpoint

__all__ = ["Settings"]

_DEFAULT_THETA: Final = 10_000.0


class Settings:
    """The values of a checkpoint's config.json.

    Args:
        checkpoint: Has the values.
        config: Names the model in messages.
    """

    def __init__(self, checkpoint: Checkpoint, config: RerankConfig) -> None:
        self._values: Mapping[str, Any] = checkpoint.config
        self._model = config.model

    def get(self, name: str) -> Any:  # noqa: ANN401 - JSON of any shape
        """Return a value as it is, None where it is missing."""
        return self._values.get(name)

    def count(self, name: str, default: int | None = None) -> int:
        """Return a whole number of at least 1.

        Raises:
            ModelLoadError: It is missing and there is no default, or it is no such number.
        """
        value = self._values.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.refuse(name, "a whole number of at least 1")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Return a positive number.

        Raises:
            ModelLoadError: It is missing and there is no default, or it is no such number.
        """
        value = self._values.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            self.refuse(name, "a positive number")
        return float(value)

    def optional_number(self, name: str) -> float | None:
        """Return a positive number, or None where config.json has none."""
        return None if self._values.get(name) is None else self.number(name)

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        """Return one of a few words.

        Raises:
            ModelLoadError: It is another one.
        """
        value = self._values.get(name, default)
        if value not in allowed:
            self.refuse(name, f"one of {', '.join(allowed)}")
        return str(value)

    def rope_theta(self) -> float:
        """Return the base of the rotary positions, from either form of config.json.

        Raises:
            ModelLoadError: Positions are scaled in a way that is not done here.
        """
        scaling = self._values.get("rope_scaling") or self._values.get("rope_parameters") or {}
        kind = scaling.get("rope_type", scaling.get("type", "default")) if isinstance(scaling, dict) else scaling
        if kind != "default":
            msg = f"config.json of {self._model!r} scales its positions ({kind}); this family knows plain ones only."
            raise ModelLoadError(msg)
        return self.number("rope_theta", scaling.get("rope_theta", _DEFAULT_THETA))

    def refuse(self, name: str, expected: str) -> NoReturn:
        """Refuse a value.

        Raises:
            ModelLoadError: Always.
        """
        value = self._values.get(name)
        said = f"has no {name}" if value is None else f"has {name}={value!r}"
        msg = f"config.json of {self._model!r} {said}; it must be {expected}."
        raise ModelLoadError(msg)
