"""Tokenizes the next portion of texts in a thread of its own while this one is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

__all__ = ["encoded_ahead"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def encoded_ahead(encode: Callable[[_In], _Out], portions: Sequence[_In]) -> Iterator[_Out]:
    """Encode portions in order, always one ahead of what is taken.

    Tokenizers work outside the interpreter lock, so this runs beside whoever launches kernels.
    Whoever stops taking waits for one portion at most.

    Args:
        encode: Called in another thread, for one portion at a time.
        portions: What to encode.
    """
    if len(portions) == 1:
        yield encode(portions[0])
        return
    with ThreadPoolExecutor(1, thread_name_prefix="flag-rerank encoder") as thread:
        coming = _begun(thread, encode, portions[0]) if portions else None
        for portion in [*portions[1:], None]:
            if coming is None:
                return
            ready, coming = coming, None if portion is None else _begun(thread, encode, portion)
            yield ready()


def _begun(thread: ThreadPoolExecutor, encode: Callable[[_In], _Out], portion: _In) -> Callable[[], _Out]:
    """Have a portion encoded in the thread, and return what waits for it."""
    try:
        return thread.submit(encode, portion).result
    except RuntimeError:  # at the interpreter's exit, when no pool takes tasks any more
        return partial(encode, portion)
