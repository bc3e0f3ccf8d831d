"""Remembers the last scores: agents and chat histories ask the same again."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from flag_rerank_integrations.pairs import EncodedPair

__all__ = ["ScoreCache"]

_KEY_BYTES: Final = 16


class ScoreCache:
    """The logits of the pairs scored last, by what the model reads of them.

    A scorer has one model and one set of options, so the token ids are the whole key: texts
    that differ only behind what is read share a score. A key is a digest of 128 bits.

    Args:
        size: How many scores to remember; 0 is none.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._logits: OrderedDict[bytes, tuple[float, ...]] = OrderedDict()

    def find(self, pairs: Sequence[EncodedPair]) -> dict[int, tuple[float, ...]]:
        """Return what is remembered of these pairs, by their index."""
        found: dict[int, tuple[float, ...]] = {}
        if not self._logits:
            return found
        for index, pair in enumerate(pairs):
            key = _key(pair)
            if key in self._logits:
                self._logits.move_to_end(key)
                found[index] = self._logits[key]
        return found

    def keep(self, pair: EncodedPair, logits: tuple[float, ...]) -> None:
        """Remember a pair's logits, and forget the one that was not asked for longest."""
        if self._size:
            self._logits[_key(pair)] = logits
            if len(self._logits) > self._size:
                self._logits.popitem(last=False)


def _key(pair: EncodedPair) -> bytes:
    digest = blake2b(digest_size=_KEY_BYTES)
    for window in (pair, *pair.rest):
        # The lengths keep two windows apart from one, and ids from types.
        digest.update(array("q", (len(window.ids), *window.ids, *(window.type_ids or ()))))
    return digest.digest()
