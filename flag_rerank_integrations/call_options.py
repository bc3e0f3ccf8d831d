"""The options that calls look at."""

from __future__ import annotations

from typing import Protocol

__all__ = ["CallOptions"]


class CallOptions(Protocol):
    """The options that every call looks at, whoever computes."""

    @property
    def model(self) -> str | None:
        """The model's name; None where a server has one and does not ask."""
        ...

    @property
    def progress(self) -> bool:
        """Whether to show a progress bar over the pairs of a call."""
        ...

    @property
    def timeout(self) -> float | None:
        """Seconds one call may take; None is no limit."""
        ...
