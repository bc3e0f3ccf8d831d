"""Numbers of other libraries as Python's own, which JSON, traces and pydantic take."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

__all__ = ["plain_number"]


def plain_number(value: Any) -> Any:  # noqa: ANN401 - what is no number comes back as it is
    """Return a number, such as a `numpy.int64` or a `numpy.float32`, as an int or a float; anything else unchanged."""
    if isinstance(value, int):  # a bool and this package's own kinds of int among them
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value
