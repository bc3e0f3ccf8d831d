"""The connection to Ray: made when first needed, and never closed from here, for others may use it too."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from typing import Any, Final

from flag_rerank_integrations.errors import DeviceError, MissingExtraError
from flag_rerank_integrations.ray_options import RayOptions

__all__ = ["connect", "gpus_of_a_worker", "no_room", "session"]

logger: Final = logging.getLogger(__name__)

_NOT_SHOWN: Final = ("memory", "object_store_memory")

_ANSWER_SECONDS: Final = 10.0

_connecting = threading.Lock()


def connect(options: RayOptions) -> Any:  # noqa: ANN401 - the module `ray`, which need not be installed
    """Connect to the cluster unless this process is connected already, and return the module `ray`.

    Raises:
        MissingExtraError: Ray is not installed.
        DeviceError: There is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        msg = f"Running on Ray needs the extra `ray`: pip install 'flag-rerank-integrations[ray]' ({error})."
        raise MissingExtraError(msg, name="ray") from error
    with _connecting:
        if ray.is_initialized():
            _check_address(ray, options.address)
            return ray
        _check_reachable(options.address or os.environ.get("RAY_ADDRESS", ""))
        try:
            # A Ray that is started here opens no port to people: whoever wants its dashboard starts it themselves.
            ray.init(address=options.address, include_dashboard=False)
        except Exception as error:
            where = "by its usual address" if options.address is None else f"at {options.address!r}"
            msg = f"There is no connection to Ray {where}: {type(error).__name__}: {error}"
            raise DeviceError(msg) from error
    return ray


def session() -> str | None:
    """Return a name of this process's connection, another for each; None where it has none."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    return f"{context.get_session_name()} {context.get_job_id()}"


def gpus_of_a_worker(options: RayOptions) -> float:
    """Return how many GPUs a worker asks for."""
    if options.num_gpus is not None:
        return options.num_gpus
    import ray

    if ray.cluster_resources().get("GPU"):
        return 1
    logger.info("The Ray cluster has no GPU: scoring on CPUs.")
    return 0


def no_room(wanted: dict[str, Any], seconds: float) -> DeviceError:
    """Return what a caller gets for whose worker the cluster has no room.

    Args:
        wanted: What a worker asks for, by Ray's names.
        seconds: How long the cluster was given.
    """
    import ray

    total, free = _amounts(ray.cluster_resources()), _amounts(ray.available_resources())
    return DeviceError(
        f"The Ray cluster found no room for a worker with {_amounts(wanted)} within {seconds:g} seconds "
        f"(ray.placement_timeout). It has {total} in all, of which {free} are free."
    )


def _check_reachable(address: str) -> None:
    """Refuse at once an address where nobody listens: Ray itself tries for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        msg = f"There is no Ray at {address!r}: {error}. Its address is that of the head node, such as '10.0.0.1:6379'."
        raise DeviceError(msg) from error


def _check_address(ray: Any, address: str | None) -> None:  # noqa: ANN401 - as above
    """Say so where this process is connected already, and not obviously to the address asked for."""
    connected = ray.get_runtime_context().gcs_address
    if address not in (None, "auto", "local", connected):
        logger.warning("This process is connected to Ray at %s already: address=%r is not used.", connected, address)


def _amounts(resources: dict[str, Any]) -> str:
    """Show what a worker may ask for: neither bytes of memory nor names of nodes."""
    names = sorted(name for name in resources if ":" not in name and name not in _NOT_SHOWN)
    return ", ".join(f"{resources[name]:g} {name}" for name in names) or "nothing"
