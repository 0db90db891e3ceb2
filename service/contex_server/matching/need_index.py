"""The needs of the agents that listen here: finds those that a new text meets.

One matrix product gives a text's fit without words for every need at once, an inverted index what
words add. The few needs whose threshold it may reach are then measured exactly, as `DataIndex`
does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from contex_server.kernel.model import Match
from contex_server.matching.background import Baseline
from contex_server.matching.changes import TextChange, best_first
from contex_server.matching.data_index import DataIndex
from contex_server.matching.encoding import Encoding
from contex_server.matching.measure import different_words, measure, rows_of
from contex_server.matching.needs_by_agent import NeedsByAgent
from contex_server.matching.postings import Postings
from contex_server.matching.score import Floats, log_odds_of, probability
from contex_server.matching.terms import Terms, once, single_words
from contex_server.matching.vectors import resized

Rows = NDArray[np.int64]
_BLOCK_ROWS = 8_192
_ROUNDING = 1e-4
"""An upper bound on the error of float32 fits."""


class NeedIndex(NeedsByAgent):
    """Needs by agent. Not for use by several threads at once.

    A need that several agents share is one row. A free row requires more than any text has.
    """

    def __init__(self, data: DataIndex) -> None:
        super().__init__()
        self._data = data
        self._postings = Postings()
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
        self._levels = np.zeros(0)
        self._masses = np.zeros(0)
        self._term_bytes = 0

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        columns = self._vectors, self._rows, self._offsets, self._thresholds, self._levels
        arrays = sum(column.nbytes for column in (*columns, self._masses))
        return self._postings.nbytes + arrays + self._term_bytes

    def changed(self, change: TextChange) -> None:
        """Follows a change of the data: what other data there are makes no difference."""

    def background_changed(self) -> None:
        """Follows a new background of the data index."""
        rows = list(self._terms)
        self._set_baselines(rows, [self._need(row) for row in rows])

    def scan(self, encodings: Sequence[Encoding]) -> list[Rows]:
        """The rows of the needs whose threshold each text may reach."""
        if not self._terms or not encodings:
            return [np.empty(0, np.int64) for _ in encodings]
        weights = self._data.scorer.weights
        passages = np.concatenate([rows_of(each, self._data.background) for each in encodings]).T
        edges = np.cumsum([0, *(encoding.passages for encoding in encodings)])
        # Needs that share words with a text, and what these add at most.
        wordy = [
            (rows, weights.surplus * coverage) for rows, coverage in map(self._words, encodings)
        ]
        found: list[list[Rows]] = [[] for _ in encodings]
        for start in range(0, self._used, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, self._used)
            fits = self._rows[start:stop] @ passages
            reached = fits >= self._levels[start:stop, None]
            for text, (rows, more) in enumerate(wordy):
                own = slice(edges[text], edges[text + 1])
                alone = np.flatnonzero(reached[:, own].any(1)) + start
                first, last = np.searchsorted(rows, (start, stop))
                rows, more = rows[first:last], more[first:last]
                best = fits[rows - start, own].max(1, initial=-np.inf) + more
                found[text] += [alone, rows[best >= self._levels[rows]]]
        return [np.unique(np.concatenate(rows)) for rows in found]

    def match(
        self, encoding: Encoding, rows: Rows, data_key: str, serial: int | None
    ) -> dict[str, tuple[Match, ...]]:
        """By agent, the needs that an event of this text meets, best first.

        `rows` are what `scan` returned for it; `serial` doesn't matter here.
        """
        if not len(rows):
            return {}
        data = self._data
        at = rows.tolist()
        baselines = [self._baselines[row] for row in at]
        background, scorer = data.background, data.scorer
        measured = measure(self._vectors[rows], baselines, encoding, background, scorer).best(
            scorer
        )
        scores = probability(measured.log_odds)
        by_agent: defaultdict[str, list[Match]] = defaultdict(list)
        for index in np.flatnonzero(scores >= self._thresholds[rows]).tolist():
            for agent_id, indexes in self._agents_of[at[index]].items():
                agent = self._agents[agent_id]
                for need_index in indexes:
                    need = agent.needs[need_index]
                    if scores[index] >= need.threshold and not need.excludes(data_key):
                        match = data.match_of(need, need_index, baselines[index], measured, index)
                        by_agent[agent_id].append(match)
        return {agent_id: best_first(matches) for agent_id, matches in by_agent.items()}

    def _words(self, encoding: Encoding) -> tuple[Rows, Floats]:
        """The needs that share words with a text, and how much of them it covers."""
        ids = different_words([single_words(terms) for terms in encoding.terms])
        ids = np.array([id for id in ids.tolist() if id in self._postings], np.uint32)
        if not len(ids):
            return np.empty(0, np.int64), np.empty(0)
        slots, sizes = self._postings.slots(ids.tolist())
        weights = np.repeat(self._data.background.rarities(ids), sizes)
        covered = np.bincount(slots, weights, self._used)
        rows = np.flatnonzero(covered)
        return rows, covered[rows] / self._masses[rows]

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
        self._vectors[rows] = np.concatenate([need.vectors[:1] for need in needs])
        for row, need in zip(rows, needs, strict=True):
            self._terms[row] = need.terms[0]
            self._term_bytes += _nbytes(need.terms[0])
            if need.foreign:
                self._foreign.add(row)
            self._postings.add(row, once(single_words(need.terms[0])))
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
            self._masses[row] = baseline.mass
            self._set_level(row)

    def _set_level(self, row: int) -> None:
        required = log_odds_of(self._thresholds[row]) - self._data.scorer.weights.bias
        self._levels[row] = required + self._offsets[row] - _ROUNDING

    def _grow(self, size: int) -> None:
        before = len(self._offsets)
        self._vectors = resized(self._vectors, size)
        for name in ("_rows", "_offsets", "_thresholds", "_levels", "_masses"):
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
        self._postings.remove(row, once(single_words(terms)))
        del self._baselines[row]
        self._foreign.discard(row)
        self._levels[row] = np.inf
        self._free.append(row)


def _nbytes(terms: Terms) -> int:
    """Memory of a need's terms and what is known of it, in bytes."""
    return 2 * terms.ids.nbytes + 900
