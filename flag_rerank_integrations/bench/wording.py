"""How figures are written in the table and in the reasons."""

from __future__ import annotations

from typing import Final

__all__ = ["counted", "short"]

_THREE_DIGITS: Final = 100


def short(value: float) -> str:
    """Show three digits, or all before the point."""
    return f"{value:,.0f}" if value >= _THREE_DIGITS else f"{value:.3g}"


def counted(number: int, noun: str) -> str:
    """Say how many there are of something."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
