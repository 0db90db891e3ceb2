"""The needs of the agents that listen here: finds those that a new text meets.

A matrix product gives the fits without words of many texts with many needs at once, an inverted
index what words add. The few pairs that may reach the threshold are then measured exactly, as
`DataIndex` does. Everything is done for many texts together: what numpy takes for a call, and what
memory gives at a time, would otherwise cost more than the work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from contex_server.kernel.model import Match, Need
from contex_server.matching.background import Background, Baseline
from contex_server.matching.changes import TextChange
from contex_server.matching.data_index import DataIndex
from contex_server.matching.embedders.port import Vector
from contex_server.matching.encoding import Encoding
from contex_server.matching.measure import Texts, measure_pairs
from contex_server.matching.needs_by_agent import NeedsByAgent
from contex_server.matching.postings import Postings
from contex_server.matching.score import log_odds_of, probability
from contex_server.matching.terms import Terms, once, single_words
from contex_server.matching.vectors import resized

_T = TypeVar("_T")
Rows = NDArray[np.int64]
_BLOCK_ROWS = 8_192
_BLOCK_PASSAGES = 256
"""Needs, and passages, whose fits are computed together: 8 MiB."""
_WORDS_PASSAGES = 64
"""Passages whose words are looked up together."""
_PAIRS_PER_STEP = 16_384
"""Pairs that are measured together."""
_ROUNDING = 1e-4
"""An upper bound on the error of float32 fits."""


class Met(NamedTuple):
    """A need that a text meets, for the agents that have it with the same settings."""

    need: Need
    match: Match
    agents: dict[str, None]


class _Words(NamedTuple):
    """The words of some passages: of each passage all the words of its text."""

    ids: NDArray[np.uint32]
    passages: Rows  # whose each is, ascending
    rarities: NDArray[np.float32]

    @classmethod
    def of(cls, texts: Texts, background: Background) -> _Words:
        each = [texts.words[text] for text in texts.owner.tolist()]
        ids = np.concatenate(each)
        passages = np.repeat(np.arange(len(each)), [len(words) for words in each])
        return cls(ids, passages, background.rarities(ids).astype(np.float32))

    def steps(self) -> Iterator[_Words]:
        """The same for a few passages at a time."""
        last = int(self.passages[-1]) + _WORDS_PASSAGES if len(self.passages) else 0
        edges = np.searchsorted(self.passages, np.arange(0, last + 1, _WORDS_PASSAGES))
        for start, stop in pairwise(edges.tolist()):
            step = slice(start, stop)
            yield _Words(self.ids[step], self.passages[step], self.rarities[step])


class _Product(NamedTuple):
    """What some texts are to some needs without words."""

    first: int  # of the texts, among all of the batch
    texts: Texts
    words: _Words
    rows: slice
    fits: Vector  # [passages, rows]


class NeedIndex(NeedsByAgent):
    """Needs by agent. Not for use by several threads at once.

    A need that several agents share is one row. A free row requires more than any text has.
    """

    def __init__(self, data: DataIndex) -> None:
        super().__init__()
        self._data = data
        self._postings: list[Postings] = []  # of each block of rows
        self._terms: dict[int, Terms] = {}
        self._baselines: dict[int, Baseline] = {}
        self._foreign: set[int] = set()
        self._free: list[int] = []
        self._used = 0
        self._vectors = np.zeros((0, data.dimension), np.float32)
        # The product of such a row with a passage's is the fit without words, less the offset.
        self._rows = np.zeros((0, data.dimension + 1), np.float32)
        self._offsets, self._thresholds = np.zeros(0), np.zeros(0)
        # The product at which the threshold is reached; infinite in a free row.
        self._levels = np.zeros(0, np.float32)
        # What a word adds to it at most, by its rarity.
        self._gains = np.zeros(0, np.float32)
        self._term_bytes = 0

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        columns = self._vectors, self._rows, self._offsets, self._thresholds, self._levels
        arrays = sum(column.nbytes for column in (*columns, self._gains))
        postings = sum(postings.nbytes for postings in self._postings)
        return postings + arrays + self._term_bytes

    def changed(self, change: TextChange) -> None:
        """Follows a change of the data: what other data there are makes no difference."""

    def background_changed(self) -> None:
        """Follows a new background of the data index."""
        self.version += 1
        rows = list(self._terms)
        self._set_baselines(rows, [self._need(row) for row in rows])

    def scan(self, encodings: Sequence[Encoding]) -> list[list[Met]]:
        """The needs that each text meets, best first."""
        found: list[list[Met]] = [[] for _ in encodings]
        if not self._terms or not encodings:
            return found
        blocks = list(_blocks([encoding.passages for encoding in encodings]))
        products = self._products(encodings, blocks)
        for product in _ahead(products) if len(blocks) > 1 else products:
            of, rows = self._likely(product)
            for start in range(0, len(rows), _PAIRS_PER_STEP):
                step = slice(start, start + _PAIRS_PER_STEP)
                for text, met in self._met(product.texts, of[step], rows[step]):
                    found[product.first + text].append(met)
        for each in found:
            each.sort(key=lambda met: (-met.match.score, met.match.need_index))
        return found

    def match(
        self, encoding: Encoding, found: list[Met], data_key: str, serial: int | None
    ) -> dict[str, tuple[Match, ...]]:
        """By agent, the needs that an event of this text meets, best first.

        `found` is what `scan` returned for it; `encoding` and `serial` don't matter here.
        """
        by_agent: dict[str, tuple[Match, ...]] = {}
        for need, match, agents in found:
            if need.exclude and need.excludes(data_key):
                continue
            alone = (match,)
            if len(agents) > 1 and by_agent.keys().isdisjoint(agents.keys()):
                by_agent.update(dict.fromkeys(agents, alone))
                continue
            for agent_id in agents:
                better = by_agent.get(agent_id)
                by_agent[agent_id] = alone if better is None else (*better, match)
        return by_agent

    def _products(
        self, encodings: Sequence[Encoding], blocks: Sequence[tuple[int, int]]
    ) -> Iterator[_Product]:
        for first, stop in blocks:
            texts = Texts.of(encodings[first:stop], self._data.background)
            words = _Words.of(texts, self._data.background)
            for start in range(0, self._used, _BLOCK_ROWS):
                rows = slice(start, min(start + _BLOCK_ROWS, self._used))
                yield _Product(first, texts, words, rows, texts.rows @ self._rows[rows].T)

    def _likely(self, product: _Product) -> tuple[Rows, Rows]:
        """The pairs that may reach the threshold, as texts and rows: no others do."""
        _, texts, words, rows, fits = product
        _add_words(fits, words, self._postings[rows.start // _BLOCK_ROWS], self._gains[rows])
        passages, row = np.divmod(np.flatnonzero(fits >= self._levels[rows]), fits.shape[1])
        pairs = np.unique(texts.owner[passages] * self._used + rows.start + row)
        return np.divmod(pairs, self._used)

    def _met(self, texts: Texts, of: Rows, rows: Rows) -> Iterator[tuple[int, Met]]:
        """What texts meet of some pairs, each with its text."""
        baselines = [self._baselines[row] for row in rows.tolist()]
        measured = measure_pairs(self._vectors, rows, baselines, texts, of, self._data.scorer)
        at = np.flatnonzero(probability(measured.log_odds) >= self._thresholds[rows])
        pairs = zip(at.tolist(), of[at].tolist(), rows[at].tolist(), strict=True)
        for (pair, text, row), parts in zip(pairs, measured.parts(at), strict=True):
            for (need_index, need), agents in self._agents_of[row].items():
                if parts.score >= need.threshold:
                    match = self._data.match_of(need, need_index, baselines[pair], parts)
                    yield text, Met(need, match, agents)

    def _need(self, row: int) -> Encoding:
        foreign = row in self._foreign
        return Encoding(self._vectors[row : row + 1], (self._terms[row],), foreign)

    def _add(self, needs: Sequence[Encoding]) -> list[int]:
        if not needs:
            return []
        if len(needs) > len(self._free):
            self._grow(max(64, 3 * len(self._offsets) // 2, len(self._offsets) + len(needs)))
        rows = [self._free.pop() for _ in needs]
        self._used = max(self._used, *(row + 1 for row in rows))
        while len(self._postings) * _BLOCK_ROWS < self._used:
            self._postings.append(Postings())
        self._vectors[rows] = np.concatenate([need.vectors[:1] for need in needs])
        for row, need in zip(rows, needs, strict=True):
            self._terms[row] = need.terms[0]
            self._term_bytes += _nbytes(need.terms[0])
            if need.foreign:
                self._foreign.add(row)
            block, slot = divmod(row, _BLOCK_ROWS)
            self._postings[block].add(slot, once(single_words(need.terms[0])))
        self._set_baselines(rows, needs)
        return rows

    def _set_baselines(self, rows: list[int], needs: Sequence[Encoding]) -> None:
        weights = self._data.scorer.weights
        for row, baseline in zip(rows, self._data.background.baselines(needs), strict=True):
            self._baselines[row] = baseline
            slope = weights.standing / baseline.deviation + weights.contrast
            self._rows[row, :-1] = slope * self._vectors[row]
            self._rows[row, -1] = -weights.contrast
            self._offsets[row] = weights.standing * baseline.mean / baseline.deviation
            self._gains[row] = weights.surplus / baseline.mass
            self._set_level(row)

    def _set_level(self, row: int) -> None:
        required = log_odds_of(self._thresholds[row]) - self._data.scorer.weights.bias
        level = np.float32(required + self._offsets[row] - _ROUNDING)
        self._levels[row] = np.nextafter(level, np.float32(-np.inf))

    def _grow(self, size: int) -> None:
        before = len(self._offsets)
        self._vectors = resized(self._vectors, size)
        for name in ("_rows", "_offsets", "_thresholds", "_levels", "_gains"):
            setattr(self, name, resized(getattr(self, name), size))
        self._levels[before:] = np.inf
        self._free += range(size - 1, before - 1, -1)

    def _set_thresholds(self, rows: list[int], thresholds: list[float]) -> None:
        self._thresholds[rows] = thresholds
        for row in rows:
            self._set_level(row)

    def _remove(self, row: int) -> None:
        terms = self._terms.pop(row)
        self._term_bytes -= _nbytes(terms)
        block, slot = divmod(row, _BLOCK_ROWS)
        self._postings[block].remove(slot, once(single_words(terms)))
        del self._baselines[row]
        self._foreign.discard(row)
        self._levels[row] = np.inf
        self._free.append(row)


def _ahead(items: Iterator[_T]) -> Iterator[_T]:
    """The same items; while one is used, another thread computes the next."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, items, None)
        while (item := following.result()) is not None:
            following = thread.submit(next, items, None)
            yield item


def _add_words(fits: Vector, words: _Words, postings: Postings, gains: NDArray[np.float32]) -> None:
    """Adds to fits, [passages, needs], what the words that both have add at most."""
    sums = fits.reshape(-1)
    for step in words.steps():
        slots, sizes = postings.slots(step.ids.tolist())
        at = np.repeat(step.passages * fits.shape[1], sizes) + slots
        np.add.at(sums, at, np.repeat(step.rarities, sizes) * gains[slots])


def _blocks(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Divides texts, given by their numbers of passages, into blocks of not too many."""
    start = passages = 0
    for stop, size in enumerate(sizes):
        if passages and passages + size > _BLOCK_PASSAGES:
            yield start, stop
            start, passages = stop, 0
        passages += size
    yield start, len(sizes)


def _nbytes(terms: Terms) -> int:
    """Memory of a need's terms and what is known of it, in bytes."""
    return 2 * terms.ids.nbytes + 900
