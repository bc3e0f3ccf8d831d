"""How a reranker runs on Ray: how many workers, what each of them gets, which cluster."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from flag_rerank_integrations.errors import ConfigError

__all__ = ["RayOptions", "ray_form", "ray_options"]

_DEVICE: Final = re.compile(r"ray(?::(?P<workers>\d+))?")


@dataclass(frozen=True, slots=True)
class RayOptions:
    """Where `Reranker(..., ray=RayOptions(...))` places its workers; a dict of the same names will do as well.

    Args:
        num_workers: How many workers, each with the whole model.
        num_gpus: GPUs of each worker; a fraction lets several share one. None is one GPU where the
            cluster has any, and none where it has none.
        num_cpus: CPU cores of each worker; without a GPU it computes with as many threads.
        resources: Other resources of each worker, by Ray's names, such as {"NPU": 1}.
        address: Address of the cluster. None is Ray's own rule: the connection this process has, else
            RAY_ADDRESS, else a cluster that runs on this machine, else a new Ray on this machine.
        runtime_env: Ray's runtime environment of the workers, such as {"pip": [...]}; JSON values only.
        placement_timeout: Seconds that the cluster may take to find room for a worker.

    Raises:
        ConfigError: An option has a wrong type or value.
    """

    num_workers: int = 1
    num_gpus: float | None = None
    num_cpus: float = 1
    resources: dict[str, float] = field(default_factory=dict, hash=False)
    address: str | None = None
    runtime_env: dict[str, Any] | None = field(default=None, hash=False)
    placement_timeout: float = 300.0

    def __post_init__(self) -> None:
        """Refuse what cannot work, and keep dicts that nobody else can change."""
        if isinstance(self.num_workers, bool) or not isinstance(self.num_workers, int) or self.num_workers < 1:
            _refuse("num_workers", self.num_workers, "a whole number of at least 1")
        if self.num_gpus is not None:
            _check_amount("num_gpus", self.num_gpus)
        _check_amount("num_cpus", self.num_cpus)
        if not isinstance(self.resources, dict) or not all(isinstance(name, str) for name in self.resources):
            _refuse("resources", self.resources, "a dict of amounts by name")
        for name, amount in self.resources.items():
            _check_amount(f"resources[{name!r}]", amount)
        if self.address is not None and (not isinstance(self.address, str) or not self.address):
            _refuse("address", self.address, "a non-empty string or None")
        if self.runtime_env is not None and not _is_json_object(self.runtime_env):
            _refuse("runtime_env", self.runtime_env, "a dict of JSON values or None")
        _check_amount("placement_timeout", self.placement_timeout)
        if self.placement_timeout == 0:
            _refuse("placement_timeout", self.placement_timeout, "a positive number of seconds")
        for name in ("resources", "runtime_env"):
            object.__setattr__(self, name, copy.deepcopy(getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain JSON values."""
        return dataclasses.asdict(self)


def ray_form(value: object) -> Any:  # noqa: ANN401 - what it cannot bring into form is refused
    """Return a config's option `ray` as `RayOptions` or None.

    Raises:
        ConfigError: It is neither, nor a dict with the names of `RayOptions`.
    """
    if value is None or isinstance(value, RayOptions):
        return value
    if not isinstance(value, Mapping):
        msg = f"ray must be RayOptions, a dict such as {{'num_workers': 4}}, or None, not {value!r}."
        raise ConfigError(msg)
    known = [option.name for option in dataclasses.fields(RayOptions)]
    unknown = sorted(map(str, set(value) - set(known)))
    if unknown:
        msg = f"Unknown option {', '.join(map(repr, unknown))} in ray; there are {', '.join(known)}."
        raise ConfigError(msg)
    return RayOptions(**value)


def ray_options(device: str | tuple[str, ...], ray: RayOptions | None) -> RayOptions | None:
    """Return how to run on Ray, or None where these options of a config mean this machine's own devices.

    Raises:
        ConfigError: `device` and `ray` contradict each other.
    """
    match = _DEVICE.fullmatch(device.strip().lower()) if isinstance(device, str) else None
    if match is None:
        if ray is not None and device != "auto":
            msg = f"device={device!r} is of this machine: with ray=..., leave device out, for Ray gives the devices."
            raise ConfigError(msg)
        return ray
    workers = int(match["workers"] or 1)
    if workers == 0:
        msg = f"device={device!r} asks for no worker; the number behind 'ray' is how many."
        raise ConfigError(msg)
    if ray is not None and ray.num_workers != workers:
        msg = f"device={device!r} asks for {workers} workers and ray=... for {ray.num_workers}: say it once."
        raise ConfigError(msg)
    return ray or RayOptions(num_workers=workers)


def _check_amount(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        _refuse(name, value, "a number of at least 0")


def _is_json_object(value: object) -> bool:
    try:
        return isinstance(value, dict) and bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def _refuse(name: str, value: object, expected: str) -> NoReturn:
    msg = f"ray.{name} must be {expected}, not {value!r}."
    raise ConfigError(msg)
