"""An inverted index that follows every change at once: term → where it occurs, and how often.

Not tantivy, which was measured: changes become visible with a commit, it can't say which of many
needs a new text meets, and it rounds lengths, so that the two directions would disagree (ADR 9).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from contex_server.matching.terms import Terms

MAX_SLOTS = 1 << 24
_COUNT_BITS = 8
_NOWHERE = array("I")
_BYTES_EACH = 200
"""Memory of a list and its entry in the dictionary, without its items."""


class Postings:
    """Terms of texts by slot; slots are below `MAX_SLOTS`.

    Most terms occur once or twice, so lists are as small as possible: a packed number for each
    occurrence, with the slot and, in the lowest 8 bits, the count.
    """

    def __init__(self) -> None:
        self._lists: dict[int, array[int]] = {}
        self._items = 0

    def __len__(self) -> int:
        return len(self._lists)

    def __contains__(self, term: int) -> bool:
        return term in self._lists

    @property
    def nbytes(self) -> int:
        """Approximate memory in bytes."""
        return 4 * self._items + _BYTES_EACH * len(self)

    def add(self, slot: int, terms: Terms) -> None:
        """Adds a text."""
        packed = ((slot << _COUNT_BITS) | terms.counts.astype(np.int64)).tolist()
        self._items += len(packed)
        for term, one in zip(terms.ids.tolist(), packed, strict=True):
            occurrences = self._lists.get(term)
            if occurrences is None:
                self._lists[term] = array("I", (one,))
            else:
                occurrences.append(one)

    def remove(self, slot: int, terms: Terms) -> None:
        """Removes a text that was added with these terms."""
        packed = ((slot << _COUNT_BITS) | terms.counts.astype(np.int64)).tolist()
        self._items -= len(packed)
        for term, one in zip(terms.ids.tolist(), packed, strict=True):
            occurrences = self._lists[term]
            last = occurrences.pop()
            if not occurrences:
                del self._lists[term]
            if last != one:
                at = np.flatnonzero(np.frombuffer(occurrences, np.uint32) == one)[0]
                occurrences[at] = last

    def get(self, term: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The slots where a term occurs, and how often it does there; the term must be present."""
        packed = np.array(self._lists[term], np.uint32)
        counts = packed.astype(np.uint8).astype(np.float64)
        return (packed >> _COUNT_BITS).astype(np.int64), counts

    def slots(self, terms: Iterable[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where several terms occur.

        Returns:
            The slots, term by term, and the number of slots of each: 0 for one that is absent.
        """
        lists = [self._lists.get(term, _NOWHERE) for term in terms]
        sizes = np.fromiter(map(len, lists), np.int64, len(lists))
        packed = np.frombuffer(b"".join(lists), np.uint32)
        return (packed >> _COUNT_BITS).astype(np.int64), sizes

    def terms(self) -> Iterator[int]:
        """All terms."""
        return iter(self._lists)
