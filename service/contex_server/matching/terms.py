"""The terms that texts are compared by: folded, stemmed words without stop words.

Single words and pairs of neighbours both count: "read only" is more than "read" and "only".
Where spaces don't tell the words, any two neighbouring letters are one, as in Lucene's
CJKAnalyzer: they overlap, so pairs would add nothing. Nor did single ideographs or triples, where
needs and data were both Chinese or Japanese.
A term is the CRC-32 of its stem. From 55,000 stems on, a project probably has a collision, which
costs one need a few hundredths.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any
from zlib import crc32

import numpy as np
import Stemmer
from numpy.typing import NDArray

from contex_server.matching.scripts import (
    ARABIC,
    CYRILLIC,
    DEVANAGARI,
    GREEK,
    MARKS,
    TAMIL,
    UNDIVIDED,
    folded,
    letters,
)

TermIds = NDArray[np.uint32]

PAIR_WEIGHT = 0.5
"""The weight of a pair of neighbouring words relative to a single word of the same rarity."""
_MAX_COUNT = 255
_ASCII_WORD = re.compile(r"[^\W\d_]+|\d+")
# The look ahead spares most characters the search among the marks, which is slow.
_WORD = re.compile(rf"[^\W\d_]+(?:(?![\0-\u02ff])[{MARKS}]+[^\W\d_]*)*|\d+")
_UNDIVIDED = re.compile(f"[{UNDIVIDED}]")
_RUN = re.compile(f"([{UNDIVIDED}][{UNDIVIDED}{MARKS}]*)|[^{UNDIVIDED}]+")
_STEMMED = (
    (re.compile(f"[{CYRILLIC}]"), "russian"),
    (re.compile(f"[{GREEK}]"), "greek"),
    (re.compile(f"[{ARABIC}]"), "arabic"),
    (re.compile(f"[{DEVANAGARI}]"), "hindi"),
    (re.compile(f"[{TAMIL}]"), "tamil"),
)
"""Whose rules stem a word, by its first letter; English ones do the rest."""
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


def look_up(ids: NDArray[Any], known: NDArray[Any], values: NDArray[Any]) -> NDArray[np.float64]:
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
    words: list[Word] = []
    pairs: list[Word] = []
    for run, neighbours in _stretches(text):
        words += [Word(gram, gram, _id(gram)) for gram in _grams(run)]
        stemmed = _stemmed(neighbours)
        words += [Word(word, stem, _id(stem)) for word, stem in stemmed]
        pairs += [
            Word(f"{word} {next_word}", f"{stem} {next_stem}", _pair_id(stem, next_stem))
            for (word, stem), (next_word, next_stem) in pairwise(stemmed)
        ]
    return words + pairs


def _term_ids(text: str) -> list[int]:
    if text.isascii():
        return _spaced_ids(_ASCII_WORD.findall(text.lower()))
    ids: list[int] = []
    for run, neighbours in _stretches(text):
        ids += map(_id, _grams(run))
        ids += _spaced_ids(neighbours)
    return ids


def _spaced_ids(words: list[str]) -> list[int]:
    stems = _stemmers.stems([word for word in words if word not in STOP_WORDS])
    ids = [_id(stem) for stem in stems]
    ids += [_pair_id(a, b) for a, b in pairwise(stems)]
    return ids


@lru_cache(maxsize=65_536)
def _id(stem: str) -> int:
    return crc32(stem.encode()) & 0x7FFFFFFF


def _pair_id(first: str, second: str) -> int:
    return crc32(f"{first} {second}".encode()) | 0x80000000


def _stretches(text: str) -> Iterable[tuple[str, list[str]]]:
    """Words that are each other's neighbours, or, in their place, a run that has no spaces."""
    if text.isascii():
        return [("", _ASCII_WORD.findall(text.lower()))]
    # Folded before lowercasing, since that may produce capitals: "\u3392" is "MHz".
    text = folded(text).lower()
    if text.isascii():
        return [("", _ASCII_WORD.findall(text))]
    if not _UNDIVIDED.search(text):
        return [("", _WORD.findall(text))]
    return _split_stretches(text)


def _split_stretches(text: str) -> Iterator[tuple[str, list[str]]]:
    neighbours: list[str] = []
    for word in _WORD.findall(text):
        for part in _RUN.finditer(word):
            if part[1] is None:
                neighbours.append(part[0])
                continue
            if neighbours:
                yield "", neighbours
                neighbours = []
            yield part[0], []
    if neighbours:
        yield "", neighbours


def _grams(run: str) -> list[str]:
    """Each two neighbouring letters of a run, or its only letter."""
    found = letters(run)
    return [a + b for a, b in pairwise(found)] if len(found) > 1 else found


def _stemmed(words: Iterable[str]) -> list[tuple[str, str]]:
    """Words and their stems, without stop words."""
    words = [word for word in words if word not in STOP_WORDS]
    return list(zip(words, _stemmers.stems(words), strict=True))


class _Stemmers(threading.local):
    """A stemmer keeps state while it works, so each thread has its own."""

    def __init__(self) -> None:
        self._english = Stemmer.Stemmer("english")
        self._others: dict[str, Any] = {}

    def stems(self, words: list[str]) -> list[str]:
        stems: list[str] = self._english.stemWords(words)
        if not "".join(words).isascii():
            stems = [s if w.isascii() else self._stem(w) for w, s in zip(words, stems, strict=True)]
        return stems

    def _stem(self, word: str) -> str:
        language = next((name for script, name in _STEMMED if script.match(word)), "english")
        if language not in self._others:
            self._others[language] = Stemmer.Stemmer(language)
        stem: str = self._others[language].stemWord(word)
        return stem


_stemmers = _Stemmers()


def single_words(terms: Terms) -> TermIds:
    """The single words among terms, without pairs."""
    return terms.ids[~is_pair(terms.ids)]


def once(words: TermIds) -> Terms:
    """Terms that occur once each."""
    return Terms(words, np.ones(len(words), np.uint8))
