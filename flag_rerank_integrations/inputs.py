"""What callers may give a Reranker, checked before anything is queued."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from flag_rerank_integrations.errors import ConfigError, InputError
from flag_rerank_integrations.pairs import Pair
from flag_rerank_integrations.plain_numbers import plain_number

__all__ = ["checked_config", "checked_cut", "checked_layers", "checked_pairs", "checked_requests"]

logger: Final = logging.getLogger(__name__)

_PAIR_SIZE = 2
_SHOWN_CHARACTERS = 60
# These can be iterated, yet what is scored has positions: sets have none, and mappings would give their keys.
_NO_LISTS = (str, bytes, Mapping, set, frozenset)


def checked_config(source: object, kind: type[Any]) -> Any:  # noqa: ANN401 - an instance of `kind`
    """Return a config as an object of its class.

    Args:
        source: One already; a mapping of its options; JSON text, which begins with "{"; or the path of a JSON file.
        kind: The class: `RerankConfig` or `RemoteConfig`.

    Raises:
        ConfigError: It is none of these, the file cannot be read, or an option is wrong.
    """
    if isinstance(source, kind):
        return source
    if isinstance(source, Mapping):
        return kind.from_dict(source)
    if isinstance(source, str) and source.lstrip().startswith("{"):
        return kind.from_json(source)
    if not isinstance(source, str | os.PathLike):
        msg = (
            f"from_config needs a {kind.__name__}, a dict of its options, JSON text or the path of a JSON file, "
            f"not {type(source).__name__}."
        )
        raise ConfigError(msg)
    try:
        text = Path(source).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # no such file; a NUL in its name, or not UTF-8
        msg = f"The config {os.fspath(source)!r} cannot be read: {getattr(error, 'strerror', None) or error}."
        raise ConfigError(msg) from error
    try:
        return kind.from_json(text)
    except ConfigError as error:
        msg = f"{os.fspath(source)}: {error}"
        raise ConfigError(msg) from error


def checked_pairs(pairs: Iterable[Pair]) -> list[Pair]:
    """Return pairs as a list of tuples of strings, or say what is wrong with them."""
    if isinstance(pairs, _NO_LISTS) or not isinstance(pairs, Iterable):
        msg = f"pairs must be a sequence of (query, passage), not {type(pairs).__name__}."
        raise InputError(msg)
    checked = []
    for position, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != _PAIR_SIZE:
            msg = f"Pair {position} must be (query, passage), not {_shown(pair)}."
            raise InputError(msg)
        query, passage = pair
        checked.append((_text(query, f"query of pair {position}"), _text(passage, f"passage of pair {position}")))
    return checked


def checked_layers(layers: Iterable[int]) -> tuple[int, ...]:
    """Return layers without repetitions, or say what is wrong with them."""
    if isinstance(layers, str | bytes) or not isinstance(layers, Iterable):
        msg = f"layers must be a list of whole numbers, such as [8, 28], not {_shown(layers)}."
        raise ConfigError(msg)
    given = [plain_number(layer) for layer in layers]
    wrong = [layer for layer in given if isinstance(layer, bool) or not isinstance(layer, int)]
    if wrong or not given:
        msg = f"layers must be at least one whole number, not {_shown(wrong[0] if wrong else given)}."
        raise ConfigError(msg)
    return tuple(dict.fromkeys(given))


def checked_requests(requests: Iterable[tuple[str, Iterable[str]]]) -> tuple[list[int], list[Pair]]:
    """Return how many passages each request has, and all pairs in one list."""
    if isinstance(requests, _NO_LISTS) or not isinstance(requests, Iterable):
        msg = f"requests must be a sequence of (query, passages), not {type(requests).__name__}."
        raise InputError(msg)
    counts, pairs = [], []
    for request in requests:
        if not isinstance(request, tuple | list) or len(request) != _PAIR_SIZE:
            msg = f"Each request must be (query, passages), not {_shown(request)}."
            raise InputError(msg)
        query = _text(request[0], "query")
        texts = [_text(passage, f"passage {position}") for position, passage in enumerate(_in_order(request[1]))]
        _warn_of_empty(texts)
        counts.append(len(texts))
        pairs += [(query, text) for text in texts]
    return counts, pairs


def checked_cut(top_n: int | None, score_threshold: float | None) -> tuple[int | None, float | None]:
    """Return how a ranking is to be cut, in Python's own numbers, or say what is wrong with that."""
    top_n, score_threshold = plain_number(top_n), plain_number(score_threshold)
    if top_n is not None and (isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 0):
        msg = f"top_n must be a whole number of at least 0 or None, not {top_n!r}."
        raise ConfigError(msg)
    if score_threshold is None:
        return top_n, None
    nan = isinstance(score_threshold, float) and math.isnan(score_threshold)
    if nan or isinstance(score_threshold, bool) or not isinstance(score_threshold, int | float):
        msg = f"score_threshold must be a number or None, not {score_threshold!r}."
        raise ConfigError(msg)
    return top_n, score_threshold


def _in_order(passages: Any) -> Iterable[object]:  # noqa: ANN401 - whatever a caller gives
    """Refuse what gives no passages, or in no order: a table would give the names of its columns."""
    if (
        isinstance(passages, _NO_LISTS)
        or not isinstance(passages, Iterable)
        or getattr(passages, "ndim", 1) != 1  # numpy's and pandas' word for how many dimensions there are
    ):
        msg = f"passages must be a list of strings, not {type(passages).__name__}."
        raise InputError(msg)
    return passages


def _warn_of_empty(passages: Sequence[str]) -> None:
    """Say that empty passages are there: models were not trained on them and may score them high."""
    empty = sum(not passage.strip() for passage in passages)
    if empty:
        logger.warning("%d of %d passages are empty: what a model makes of them means nothing.", empty, len(passages))


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        msg = f"The {what} must be a string, not {_shown(value)}."
        raise InputError(msg)
    return value


def _shown(value: object) -> str:
    """Show a wrong value by its type and a few characters."""
    text = repr(value)
    return f"{type(value).__name__} {text[:_SHOWN_CHARACTERS]}{'…' if len(text) > _SHOWN_CHARACTERS else ''}"
