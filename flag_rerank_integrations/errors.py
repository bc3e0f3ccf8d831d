"""Every error this package raises on purpose.

They form one tree::

    RerankError
    ├── ConfigError        an option has a wrong type, value or combination   (also a ValueError)
    │   └── MissingExtraError  what is asked for needs an extra of this package (also a ModuleNotFoundError)
    ├── DeviceError        the device does not exist, or is out of memory     (also a RuntimeError)
    ├── InputError         a query or a passage cannot be scored              (also a ValueError)
    ├── ModelLoadError     the checkpoint is missing, broken or no reranker   (also an OSError)
    └── WorkerError        the thread, process or actor that scores failed    (also a RuntimeError)
        ├── WorkerDied     it ended, and retrying did not help
        └── WorkerTimeout  no answer within `timeout` seconds                 (also a TimeoutError)

Each class is also the nearest built-in exception, so that code which knows
nothing of this package still catches what it means to catch.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "DeviceError",
    "InputError",
    "MissingExtraError",
    "ModelLoadError",
    "RerankError",
    "WorkerDied",
    "WorkerError",
    "WorkerTimeout",
]


class RerankError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(RerankError, ValueError):
    """An option has a wrong type or value, or two options contradict each other."""


class MissingExtraError(ModuleNotFoundError, ConfigError):
    """An optional library is not installed; the message names the extra that brings it.

    Where a checkpoint cannot be read without one, that is a `ModelLoadError` with the same advice.
    """


class DeviceError(RerankError, RuntimeError):
    """A device does not exist here, or has too little memory for even one pair."""


class InputError(RerankError, ValueError):
    """A query or a passage cannot be scored; the message says which one and why."""


class ModelLoadError(RerankError, OSError):
    """A checkpoint is missing, incomplete, unsafe, or not a reranker."""


class WorkerError(RerankError, RuntimeError):
    """The thread, process or actor that computes scores failed."""


class WorkerDied(WorkerError):  # noqa: N818 - the name is part of the public contract
    """A worker ended without an answer, and retrying on a fresh one did not help."""


class WorkerTimeout(WorkerError, TimeoutError):  # noqa: N818 - the name is part of the public contract
    """No answer came within `timeout` seconds."""
