"""Values of options: brought into one form, or refused in words that name the option."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from flag_rerank_integrations.errors import ConfigError
from flag_rerank_integrations.plain_numbers import plain_number

__all__ = ["check_count", "check_names", "check_steps", "device_form", "frozen", "refuse", "thawed"]

_STEP_SIZE: Final = 2


def device_form(device: object) -> Any:  # noqa: ANN401 - what it cannot bring into form, `devices.resolve` refuses
    """Give a device spec as a string or a tuple of strings: an index is a CUDA device, a comma makes a list.

    Raises:
        ConfigError: It can be none.
    """
    device = plain_number(device)
    if isinstance(device, list | tuple) and not any(isinstance(item, list | tuple) for item in device):
        return tuple(device_form(item) for item in device)
    if isinstance(device, bool | list | tuple) or device is None:
        refuse("device", device, "a device such as 'auto', 'cpu', 'cuda:1' or 1, or a list of them")
    if isinstance(device, str) and "," in device:
        return tuple(item.strip() for item in device.split(","))
    if not isinstance(device, str) and getattr(device, "type", None) == "cpu":
        return "cpu"  # torch.device("cpu", 0): torch has one CPU, and here a number behind it is how many
    return f"cuda:{device}" if isinstance(device, int) else str(device)


def frozen(value: object) -> object:
    """Make lists inside lists into tuples."""
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else plain_number(value)


def thawed(value: object) -> object:
    """Make tuples inside tuples into lists, as JSON has them."""
    return list(map(thawed, value)) if isinstance(value, tuple) else value


def check_names(options: Mapping[str, Any], config: type[Any]) -> None:
    """Refuse names that are no options.

    Args:
        options: Values by name.
        config: The dataclass whose fields are the options.

    Raises:
        ConfigError: There is one; the message lists the options that there are.
    """
    known = [option.name for option in dataclasses.fields(config)]
    unknown = sorted(map(str, set(options) - set(known)))
    if unknown:
        msg = f"Unknown option {', '.join(map(repr, unknown))}; the options are {', '.join(known)}."
        raise ConfigError(msg)


def check_count(name: str, value: object, least: int) -> None:
    """Refuse what is no whole number of at least so much.

    Raises:
        ConfigError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        refuse(name, value, f"a whole number of at least {least}")


def check_steps(steps: object) -> None:
    """Refuse steps of a progressive ranking that are no (layer, fraction), or that do not lead onwards.

    Raises:
        ConfigError: They are such.
    """
    expected = "None or steps of a layer and a fraction between 0 and 1, such as ((8, 0.5), (20, 0.25))"
    if not isinstance(steps, tuple) or not steps:
        refuse("progressive", steps, expected)
    layer_before, fraction_before = 0, 1.0
    for step in steps:
        if not isinstance(step, tuple) or len(step) != _STEP_SIZE:
            refuse("progressive", steps, expected)
        layer, fraction = step
        check_count("The layers of progressive", layer, least=1)
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
            refuse("progressive", steps, expected)
        if layer <= layer_before or fraction >= fraction_before:
            refuse("progressive", steps, "steps with rising layers and falling fractions")
        layer_before, fraction_before = layer, fraction


def refuse(name: str, value: object, expected: str) -> NoReturn:
    """Refuse the value of an option.

    Raises:
        ConfigError: Always; it names the option, what is expected and what was given.
    """
    msg = f"{name} must be {expected}, not {value!r}."
    raise ConfigError(msg)
