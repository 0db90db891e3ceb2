"""The rows of the need index: finds the needs that a text may meet, without scoring any.

One matrix product gives the cosines of all needs with a text, an inverted index the words in
common. Everything else about a need is updated with each change of the data, in the
same pass, and rounded so that no need is missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contex_server.matching.changes import TextChange
from contex_server.matching.encoding import Encoding
from contex_server.matching.postings import Postings
from contex_server.matching.relative.background import PASSAGES_PER_TEXT, rarities
from contex_server.matching.relative.data_index import DataIndex
from contex_server.matching.relative.need_columns import NeedColumns, Rows
from contex_server.matching.relative.score import Floats, saturation
from contex_server.matching.terms import Terms
from contex_server.matching.vectors import resized

ROUNDING = 1e-6
"""An upper bound on the error of float32 cosines and of incremental sums."""
_WORDS_APART = 0.15
"""Needs that share more of their words than this are candidates whatever their cosine."""
_SMALLER = 0.8
_LARGER = 1.5
"""Masses are computed for a project a fifth smaller, until the project is smaller than that or half
as large again: words weigh more with more data, so that their shares are never underestimated."""
_BLOCK_ROWS = 8_192
_PENDING_PASSAGES = 1_024


class Candidates(NamedTuple):
    """The needs that a text may meet, once for each passage that says so."""

    rows: Rows
    standing: Floats  # at least z
    lexical: Floats  # at least l


class _Pending(NamedTuple):
    """A text that was added (1) or removed (-1), and is not in the columns yet."""

    serial: int
    encoding: Encoding
    sign: int


class NeedRows:
    """Needs by row; a free row requires more than any text has."""

    def __init__(self, data: DataIndex) -> None:
        self._scorer = data.scorer
        self._data = data
        self.vectors = np.zeros((0, data.model.dimension), np.float32)
        self.terms: dict[int, Terms] = {}
        self.numbers = NeedColumns()
        self._postings = Postings()
        self._free: list[int] = []
        self._used = 0
        self._pending: list[_Pending] = []
        self._pending_passages = 0
        self._mass_weight = 0.0
        self._crowd = 0.0
        self._term_bytes = 0

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        arrays = self.vectors.nbytes + self.numbers.nbytes
        return arrays + self._postings.nbytes + self._term_bytes

    def need(self, row: int) -> Encoding:
        """The need of a row."""
        return Encoding(self.vectors[row : row + 1], (self.terms[row],))

    def add(self, needs: Sequence[Encoding]) -> list[int]:
        """Adds needs; their thresholds are set later."""
        if not needs:
            return []
        background, numbers = self._data.background, self.numbers
        if self.terms:
            self.scan(())
        else:
            self._pending.clear()
            self._mass_weight = _SMALLER * background.weight
            self._crowd = self._data.crowd
        if len(needs) > len(self._free):
            self._grow(max(64, 3 * len(numbers) // 2, len(numbers) + len(needs)))
        rows = [self._free.pop() for _ in needs]
        self._used = max(self._used, *(row + 1 for row in rows))
        self.vectors[rows] = np.concatenate([need.vectors[:1] for need in needs])
        means, squares = background.means(self.vectors[rows])
        numbers.set_moments(np.array(rows), means, squares, background.weight)
        for row, need in zip(rows, needs, strict=True):
            terms = self.terms[row] = need.terms[0]
            self._term_bytes += _nbytes(terms)
            self._postings.add(row, terms)
            frequencies = background.frequencies(terms.ids)
            numbers.mass[row] = rarities(terms.ids, frequencies, self._mass_weight).sum()
        return rows

    def remove(self, row: int) -> None:
        """Removes a need."""
        terms = self.terms.pop(row)
        self._term_bytes -= _nbytes(terms)
        self._postings.remove(row, terms)
        self.numbers.clear(row)
        self._free.append(row)

    def set_thresholds(self, rows: list[int], thresholds: list[float]) -> None:
        """Sets the lowest score that matches, for some needs."""
        self.numbers.threshold[rows] = thresholds
        self._set_lowest_fits(np.array(rows, np.int64))

    def changed(self, change: TextChange) -> None:
        """Follows a change of the data index."""
        for text, sign in ((change.removed, -1), (change.added, 1)):
            if text is not None and self.terms:
                self._pending.append(_Pending(*text, sign))
                self._pending_passages += text[1].passages
        if self._pending_passages > _PENDING_PASSAGES:
            self.scan(())

    def scan(self, encodings: Sequence[Encoding]) -> list[Candidates]:
        """The needs that each text may meet."""
        pending, self._pending, self._pending_passages = self._pending, [], 0
        if not self.terms:
            return [_NO_CANDIDATES] * len(encodings)
        if pending:
            self._update_masses(pending)
            self._update_lowest_fits()
            self.numbers.texts_removed([text.serial for text in pending if text.sign < 0])
        near = self._compare(encodings, pending)
        return [
            _pairs(
                [
                    self._likely(vector, terms, *next(near))
                    for vector, terms in zip(encoding.vectors, encoding.terms, strict=True)
                ]
            )
            for encoding in encodings
        ]

    def _compare(
        self, encodings: Sequence[Encoding], pending: Sequence[_Pending]
    ) -> Iterator[tuple[Rows, Floats]]:
        """Compares all needs with all passages of some texts, and updates their columns.

        Returns for each passage the needs that may be near enough, and their cosines.
        """
        numbers, weight = self.numbers, self._data.background.weight
        places: dict[int, slice] = {}
        flat: list[NDArray[np.float32]] = []
        for encoding in [*encodings, *(text.encoding for text in pending)]:
            if id(encoding) not in places:
                places[id(encoding)] = slice(len(flat), len(flat) + encoding.passages)
                flat.extend(encoding.vectors)
        if not flat:
            return iter(())
        signs = np.zeros(len(flat))
        for text in pending:
            place = places[id(text.encoding)]
            signs[place][:PASSAGES_PER_TEXT] += text.sign
        moving = np.flatnonzero(signs)
        added = [
            (text.serial, places[id(text.encoding)])
            for text in pending
            if text.sign > 0 and text.serial in self._data
        ]
        queried = [at for e in encodings for at in range(*places[id(e)].indices(len(flat)))]
        passages = np.stack(flat).T
        none = np.empty(0, np.int64)
        hits: list[tuple[NDArray[np.int64], Rows, Floats]] = [(none, none, np.empty(0))]
        for start in range(0, self._used, _BLOCK_ROWS):
            part = slice(start, min(start + _BLOCK_ROWS, self._used))
            product = self.vectors[part] @ passages
            if len(moving):
                moved = product[:, moving].astype(np.float64)
                numbers.move(part, moved, signs[moving], weight)
            for serial, place in added:
                nearest = product[:, place].max(1).astype(np.float64)
                rows = np.flatnonzero(nearest > numbers.edge[part] - ROUNDING)
                numbers.text_added(serial, rows + start, nearest[rows])
            if queried:
                cosines = product[:, queried]
                row, passage = np.nonzero(cosines >= self._lowest_cosines(part)[:, None])
                hits.append((passage, row + start, cosines[row, passage].astype(np.float64)))
        passage, row, cosine = (np.concatenate(parts) for parts in zip(*hits, strict=True))
        order = np.argsort(passage, kind="stable")
        edges = np.searchsorted(passage[order], np.arange(1, len(queried)))
        return zip(np.split(row[order], edges), np.split(cosine[order], edges), strict=True)

    def _lowest_cosines(self, rows: slice) -> NDArray[np.float32]:
        """The cosine that each need requires of a passage with few of its words."""
        numbers, weights = self.numbers, self._scorer.weights
        words = weights.fit_lexical * _WORDS_APART
        standing = (numbers.lowest_fit[rows] - words) / weights.fit_standing
        cosines = numbers.mean[rows] + standing * numbers.deviation[rows] - ROUNDING
        return np.where(standing > 0, cosines, -2.0).astype(np.float32)

    def _likely(
        self, vector: NDArray[np.float32], terms: Terms, near: Rows, cosines: Floats
    ) -> Candidates:
        """The needs that a passage may meet: by meaning (those near enough, given) or by words."""
        numbers = self.numbers
        words = self._words(terms)
        apart = words > _WORDS_APART * numbers.mass[: self._used]
        apart[near] = False
        wordy = np.flatnonzero(apart)
        rows = np.concatenate([near, wordy])
        cosines = np.concatenate([cosines, (self.vectors[wordy] @ vector).astype(np.float64)])
        standing = self._scorer.standing(
            cosines + ROUNDING, numbers.mean[rows], numbers.deviation[rows]
        )
        lexical = np.minimum(words[rows] / np.maximum(numbers.mass[rows], ROUNDING), 1.0)
        kept = self._scorer.fit(standing, lexical) >= numbers.lowest_fit[rows] - ROUNDING
        return Candidates(rows[kept], standing[kept], lexical[kept])

    def _words(self, terms: Terms) -> Floats:
        """The lexical weight that a passage with these terms has for each need, [used rows]."""
        background = self._data.background
        at = [i for i, term in enumerate(terms.ids.tolist()) if term in self._postings]
        if not at:
            return np.zeros(self._used)
        ids = terms.ids[at]
        counts = terms.counts[at].astype(np.float64)
        weights = background.rarity(ids) * saturation(
            counts, terms.length, background.average_length
        )
        slots, sizes = self._postings.slots(ids.tolist())
        words = np.bincount(slots, np.repeat(weights, sizes), self._used)
        return words.astype(np.float64, copy=False)

    def _update_masses(self, pending: Sequence[_Pending]) -> None:
        """Follows the rarity of words."""
        background, numbers = self._data.background, self.numbers
        weight = self._mass_weight
        if not weight <= background.weight <= weight * _LARGER / _SMALLER:
            self._mass_weight = weight = _SMALLER * background.weight
            ids = np.fromiter(self._postings.terms(), np.uint32, len(self._postings))
            moved = rarities(ids, background.frequencies(ids), weight)
            numbers.mass[:] = 0
        else:
            counted = [
                (terms.ids, text.sign)
                for text in pending
                for terms in text.encoding.terms[:PASSAGES_PER_TEXT]
            ]
            signs = np.repeat([sign for _, sign in counted], [len(ids) for ids, _ in counted])
            ids, inverse = np.unique(
                np.concatenate([ids for ids, _ in counted]), return_inverse=True
            )
            more = np.bincount(inverse, signs, len(ids)).astype(np.float64, copy=False)
            known = [at for at in np.flatnonzero(more).tolist() if int(ids[at]) in self._postings]
            ids, more = ids[known], more[known]
            now = background.frequencies(ids)
            moved = rarities(ids, now, weight) - rarities(ids, now - more, weight)
        slots, sizes = self._postings.slots(ids.tolist())
        numbers.mass += np.bincount(slots, np.repeat(moved, sizes), len(numbers))

    def _update_lowest_fits(self) -> None:
        crowd = self._data.crowd
        if not 0.95 < crowd / self._crowd < 1.05:
            self._crowd = crowd
            self._set_lowest_fits(np.array(list(self.terms)))

    def _set_lowest_fits(self, rows: Rows) -> None:
        """Sets the lowest fit that can match, for a crowd up to a tenth smaller than now."""
        numbers = self.numbers
        thresholds, which = np.unique(numbers.threshold[rows], return_inverse=True)
        fits = [self._scorer.lowest_fit(t, 0.9 * self._crowd) for t in thresholds.tolist()]
        numbers.lowest_fit[rows] = np.array(fits)[which]

    def _grow(self, size: int) -> None:
        before = len(self.vectors)
        self.vectors = resized(self.vectors, size)
        self.numbers.grow(size)
        self._free += range(size - 1, before - 1, -1)


_NO_CANDIDATES = Candidates(np.empty(0, np.int64), np.empty(0), np.empty(0))


def _pairs(parts: Sequence[Candidates]) -> Candidates:
    if len(parts) == 1:
        return parts[0]
    return Candidates(*map(np.concatenate, zip(_NO_CANDIDATES, *parts, strict=True)))


def _nbytes(terms: Terms) -> int:
    """Memory of a need's terms, in bytes."""
    return terms.ids.nbytes + 600
