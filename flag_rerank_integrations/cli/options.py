"""The options that commands share, and the config they make."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any, Final, Protocol

from flag_rerank_integrations.config import RerankConfig

__all__ = [
    "MODEL_OPTIONS",
    "Commands",
    "add_model_options",
    "add_number",
    "add_parser",
    "as_typed",
    "config_from",
    "count_or_auto",
]


class Commands(Protocol):
    """What `ArgumentParser.add_subparsers` returns."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser:  # noqa: ANN401 - argparse's own
        """Add a command."""
        ...


class Options(Protocol):
    """A parser, or a group of its options."""

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:  # noqa: ANN401 - argparse's own
        """Add an option."""
        ...


def add_parser(
    commands: Commands,
    common: argparse.ArgumentParser,
    name: str,
    run: Callable[[argparse.Namespace], int],
    **texts: str,
) -> argparse.ArgumentParser:
    """Add a command in the form that all commands have.

    Args:
        commands: Where to add it.
        common: The options that every command has.
        name: What it is called.
        run: Runs it, and returns the exit code.
        **texts: Those of its help: argparse's `help`, `description`, `usage` and `epilog`.
    """
    form = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(name, parents=[common], formatter_class=form, allow_abbrev=False, **texts)
    parser.set_defaults(command=run)
    return parser


def add_number(options: Options, name: str, default: float, metavar: str, text: str) -> None:
    """Add an option for a number of the kind that its default is, which its help names."""
    help_text = f"{text} (default: %(default)s)"
    options.add_argument(name, type=type(default), default=default, metavar=metavar, help=help_text)


def steps(text: str) -> tuple[tuple[int, float], ...]:
    """Read steps of a progressive ranking, such as "8:0.5,20:0.25"."""
    pairs = [step.partition(":") for step in text.split(",")]
    return tuple((int(layer), float(fraction)) for layer, _, fraction in pairs)


def count_or_auto(text: str) -> int | str:
    """Read a whole number, or the word "auto"."""
    return text if text == "auto" else int(text)


_TEXT: Final[dict[str, str]] = {
    "device": 'where to run: "auto", "cpu", "cuda:1", "mps", "npu:0", "xpu:0"; several: "cuda:0,cuda:1", "all", '
    '"auto:2", "cpu:2", "ray:4" (default: auto)',
    "quantization": '"int8" or "int4" weights; "int4" on accelerators only',
    "dtype": '"auto", "float32", "float16" or "bfloat16" (default: auto)',
    "instruction": "text put before the query, for models trained with one",
    "prompt": 'the task of a reranker that is a language model: "qa", "same-meaning", "duplicate-question", '
    '"counterargument", or a sentence (default: the model\'s own)',
    "family": '"auto", "encoder", "causal", "layerwise", "lightweight", "onnx" or "sentence-transformers" '
    "(default: auto)",
    "backend": '"auto", "torch" or "onnx" (default: auto)',
    "revision": "branch, tag or commit of a hub repository",
    "cache-dir": "directory of the hub's cache",
    "special-tokens": '"plain": "</s>" in a text is text; "parse": it acts as the token; "escape": it is taken apart '
    "(default: plain)",
    "long-passages": '"truncate", "windows" (read whole, in windows that overlap) or "error" (default: truncate)',
    "window-aggregation": 'a long passage\'s score from those of its windows: "max", "mean" or "first" (default: max)',
}
_NUMBERS: Final[dict[str, tuple[Callable[[str], object], str]]] = {
    "max-length": (int, "most tokens of a query and a passage together (default: 1024, or the model's limit)"),
    "query-max-length": (int, "most tokens of the query (default: three quarters of --max-length)"),
    "max-batch-tokens": (count_or_auto, "most tokens in one forward pass (default: auto)"),
    "window-overlap": (float, "least share of a window that it has in common with the next (default: 0.25)"),
    "max-windows": (int, "most windows of one passage (default: 64)"),
    "timeout": (float, "seconds that scoring may take"),
    "progressive": (
        steps,
        'layerwise and lightweight models: what part of the passages goes on, as "8:0.5,20:0.25"',
    ),
    "cutoff-layer": (int, "layerwise and lightweight models: the layer to read (default: the last)"),
    "compress-ratio": (int, "lightweight models: passage tokens that become one: 1, 2, 4 or 8 (default: 1)"),
}
_FLAGS: Final[dict[str, str]] = {
    "normalize": "scores from 0 to 1 (sigmoid) instead of logits",
    "local-files-only": "never use the network",
    "allow-pickle": "read pickled weights where there are no others; they can run code",
    "trust-remote-code": "let code that comes with a checkpoint run",
}

MODEL_OPTIONS: Final = ("model", *(name.replace("-", "_") for name in (*_TEXT, *_NUMBERS, *_FLAGS)))
"""Names of the options of `RerankConfig`, as attributes of what is parsed."""


def add_model_options(parser: argparse.ArgumentParser, default_model: str) -> None:
    """Add the options of `RerankConfig` that make sense on a command line; only those given are set."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default=argparse.SUPPRESS,
        help=f'a directory, a hub id, or "quickstart", the model of the extra of that name (default: {default_model})',
    )
    parser.set_defaults(default_model=default_model)
    for name, text in _TEXT.items():
        group.add_argument(f"--{name}", default=argparse.SUPPRESS, metavar=_metavar(name), help=text)
    for name, (kind, text) in _NUMBERS.items():
        group.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS, metavar=_metavar_of(kind), help=text)
    for name, text in _FLAGS.items():
        group.add_argument(f"--{name}", action="store_true", default=argparse.SUPPRESS, help=text)


def config_from(arguments: argparse.Namespace, **more: Any) -> RerankConfig:  # noqa: ANN401 - any option's value
    """Make the config that the arguments ask for.

    Raises:
        ConfigError: An option has a wrong value.
    """
    given = {name: getattr(arguments, name) for name in MODEL_OPTIONS if hasattr(arguments, name)}
    return RerankConfig.from_dict({"model": arguments.default_model, **given, **more})


def as_typed(text: str) -> str:
    """Return an argument as it was typed, in UTF-8, where the locale could not decode it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text).decode("utf-8", "replace")
    return text


def _metavar(name: str) -> str:
    return name.upper().rpartition("-")[2]


def _metavar_of(kind: Callable[[str], object]) -> str:
    return "STEPS" if kind is steps else "N"
