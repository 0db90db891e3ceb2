"""The terms that texts are compared by: folded, stemmed words without stop words.

Single words and pairs of neighbours both count: "read only" is more than "read" and "only".
A term is the CRC-32 of its stem. From 55,000 stems on, a project probably has a collision, which
costs one need a few hundredths.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any
from zlib import crc32

import numpy as np
import Stemmer
from numpy.typing import NDArray

TermIds = NDArray[np.uint32]

PAIR_WEIGHT = 0.5
"""The weight of a pair of neighbouring words relative to a single word of the same rarity."""
_MAX_COUNT = 255
_WORD = re.compile(r"[^\W\d_]+|\d+")
_MARKS = re.compile(r"[\u0300-\u036f]+")
_PAIR_BIT = np.uint32(1 << 31)

# Words without meaning for a match: the usual English ones, and those of requests
# ("please tell me", "I want to know").
_STOP_WORDS = """
    a about above after again against all am an and any are as at be because been before being
    below between both but by can could did do does doing don down during each few for from
    further had has have having he her here hers him his how i if in into is it its itself just
    ll me more most my no nor not now of off on once only or other our out over own re s same she
    should so some such t than that the their them then there these they this those through to
    too under until up ve very was we were what when where which while who whom why will with
    would you your
    find get give help know let like need please show tell want
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of a text."""

    ids: TermIds  # ascending, each once; the highest bit marks a pair of words
    counts: NDArray[np.uint8]  # how often each occurs, weighted by where

    @property
    def length(self) -> int:
        """The sum of the counts: the text's length in terms."""
        return int(self.counts.sum(dtype=np.int64))

    def counts_of(self, ids: TermIds) -> NDArray[np.float64]:
        """How often each of these terms occurs."""
        return look_up(ids, self.ids, self.counts)


def look_up(ids: TermIds, known: TermIds, values: NDArray[Any]) -> NDArray[np.float64]:
    """The values of terms among known ones, which ascend; 0 where a term is unknown."""
    if not len(known):
        return np.zeros(len(ids))
    at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.where(known[at] == ids, values[at].astype(np.float64), 0.0)


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text, its stem, and its term."""

    word: str
    stem: str
    id: int


NO_TERMS = Terms(np.empty(0, np.uint32), np.empty(0, np.uint8))


def terms_of(parts: Iterable[tuple[str, int]]) -> Terms:
    """The terms of a text's parts, each given with the weight of its words."""
    counts: Counter[int] = Counter()
    for text, weight in parts:
        if text:
            for term in _term_ids(text):
                counts[term] += weight
    if not counts:
        return NO_TERMS
    ids = np.fromiter(counts.keys(), np.uint32, len(counts))
    values = np.fromiter(counts.values(), np.int64, len(counts))
    order = np.argsort(ids)
    return Terms(ids[order], np.minimum(values[order], _MAX_COUNT).astype(np.uint8))


def is_pair(ids: TermIds) -> NDArray[np.bool_]:
    """Which of the terms are pairs of words."""
    marked: NDArray[np.bool_] = (ids & _PAIR_BIT) != 0
    return marked


def words_of(text: str) -> list[Word]:
    """The words of a text without stop words, in order, then its pairs of neighbours."""
    words = [Word(word, stem, _id(stem)) for word, stem in _stems(text)]
    pairs = [
        Word(f"{a.word} {b.word}", f"{a.stem} {b.stem}", _pair_id(a.stem, b.stem))
        for a, b in pairwise(words)
    ]
    return words + pairs


def _term_ids(text: str) -> list[int]:
    stems = [stem for _, stem in _stems(text)]
    ids = [_id(stem) for stem in stems]
    ids += [_pair_id(a, b) for a, b in pairwise(stems)]
    return ids


@lru_cache(maxsize=65_536)
def _id(stem: str) -> int:
    return crc32(stem.encode()) & 0x7FFFFFFF


def _pair_id(first: str, second: str) -> int:
    return crc32(f"{first} {second}".encode()) | 0x80000000


def _stems(text: str) -> list[tuple[str, str]]:
    if not text.isascii():
        # Before lowercasing, since it may produce capitals: "㎒" is "MHz".
        text = _MARKS.sub("", unicodedata.normalize("NFKD", text))
    words = [word for word in _WORD.findall(text.lower()) if word not in STOP_WORDS]
    return list(zip(words, _stemmers.english.stemWords(words), strict=True))


class _Stemmers(threading.local):
    """A stemmer keeps state while it works, so each thread has its own."""

    def __init__(self) -> None:
        self.english = Stemmer.Stemmer("english")


_stemmers = _Stemmers()
