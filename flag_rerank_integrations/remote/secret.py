"""A string that is not for showing."""

from __future__ import annotations

from flag_rerank_integrations.errors import ConfigError

__all__ = ["Secret"]


class Secret:
    """Holds an API key where no representation, message or JSON can show it by accident."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    @classmethod
    def of(cls, value: object, name: str) -> Secret:
        """Take what can be sent as a key.

        Args:
            value: The key; a secret stays as it is.
            name: What to call it in an error, which does not show it.

        Raises:
            ConfigError: It is not a string, is empty, or has characters that no header may have.
        """
        if isinstance(value, Secret):
            return value
        if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable():
            msg = f"{name} must be a non-empty string of printable ASCII characters."
            raise ConfigError(msg)
        return cls(value)

    def reveal(self) -> str:
        """Return the string."""
        return self._value

    def __repr__(self) -> str:
        """Show that there is one."""
        return "Secret('***')"

    def __eq__(self, other: object) -> bool:
        """Compare the strings."""
        return self._value == other._value if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        """Go with `__eq__`."""
        return hash((Secret, self._value))
