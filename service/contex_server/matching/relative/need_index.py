"""The needs of the agents that listen here: finds those that a new text meets.

`NeedRows` compares a text with all needs at once, cheaply. The few candidates are then scored
exactly, as `DataIndex` does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from contex_server.kernel.model import Match
from contex_server.matching.changes import NO_CHANGE, TextChange, best_first
from contex_server.matching.encoding import Encoding
from contex_server.matching.needs_by_agent import NeedsByAgent
from contex_server.matching.relative.background import NeedBaseline
from contex_server.matching.relative.data_index import DataIndex
from contex_server.matching.relative.need_columns import KEPT, Rows
from contex_server.matching.relative.need_rows import ROUNDING, Candidates, NeedRows
from contex_server.matching.relative.score import RIVALS, Floats, saturation


class NeedIndex(NeedsByAgent):
    """Needs by agent. Not for use by several threads at once.

    A need that several agents share is one row.
    """

    def __init__(self, data: DataIndex) -> None:
        super().__init__()
        self._scorer = data.scorer
        self._data = data
        self._rows = NeedRows(data)
        # Caches by row, valid until the data change: a need's baseline, and its rivals' fits.
        self._baselines: dict[int, NeedBaseline] = {}
        self._rivals: dict[int, Floats] = {}

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self._rows.nbytes

    def changed(self, change: TextChange) -> None:
        """Follows a change of the data index."""
        self.version += 1
        if change != NO_CHANGE:
            self._baselines.clear()
            self._rivals.clear()
            self._rows.changed(change)

    def scan(self, encodings: Sequence[Encoding]) -> list[Candidates]:
        """The needs that each text may meet."""
        return self._rows.scan(encodings)

    def match(
        self, encoding: Encoding, pairs: Candidates, data_key: str, serial: int | None
    ) -> dict[str, tuple[Match, ...]]:
        """By agent, the needs that an event of this text meets, best first.

        `pairs` are what `scan` returned for it; `serial` is None if the data index lacks the text.
        """
        thresholds = self._rows.numbers.threshold
        highest = self._score_alone(pairs.standing, pairs.lexical)
        rows = np.unique(pairs.rows[highest >= thresholds[pairs.rows] - ROUNDING])
        if not len(rows):
            return {}
        baselines = self._baselines_of(rows)
        cosines, standing, lexical = self._measured(encoding, rows, baselines)
        best = self._scorer.fit(standing, lexical).argmax(1)
        at = np.arange(len(rows))
        cosines, standing, lexical = cosines[at, best], standing[at, best], lexical[at, best]
        fits = self._scorer.fit(standing, lexical)
        crowd = self._data.crowd
        by_agent: defaultdict[str, list[Match]] = defaultdict(list)
        for index in np.flatnonzero(self._score_alone(standing, lexical) >= thresholds[rows]):
            row, fit, baseline = int(rows[index]), float(fits[index]), baselines[index]
            rivals = self._rivals_of(row, baseline)
            if serial is None:
                rivals = np.sort(np.append(rivals, fit))[::-1][:RIVALS]
            rivalry = self._scorer.rivalry(rivals, crowd).sum()
            share = float(self._scorer.share(fits[index], rivalry, crowd))
            score = float(self._scorer.score(standing[index], lexical[index], np.array(share)))
            parts = cosines[index], standing[index], lexical[index], share
            passage = int(best[index])
            for (need_index, need), agents in self._agents_of[row].items():
                if score < need.threshold or need.excludes(data_key):
                    continue
                match = self._data.match_of(need, need_index, baseline, passage, parts, score)
                for agent_id in agents:
                    by_agent[agent_id].append(match)
        return {agent_id: best_first(matches) for agent_id, matches in by_agent.items()}

    def _score_alone(self, standing: Floats, lexical: Floats) -> Floats:
        """The scores without any rivals: upper bounds."""
        scorer, crowd = self._scorer, self._data.crowd
        fits = scorer.fit(standing, lexical)
        share = scorer.share(fits, scorer.rivalry(fits, crowd), crowd)
        return scorer.score(standing, lexical, share)

    def _baselines_of(self, rows: Rows) -> list[NeedBaseline]:
        missing = [row for row in rows.tolist() if row not in self._baselines]
        baselines = self._data.background.baselines([self._rows.need(row) for row in missing])
        self._baselines.update(zip(missing, baselines, strict=True))
        return [self._baselines[row] for row in rows.tolist()]

    def _measured(
        self, encoding: Encoding, rows: Rows, baselines: Sequence[NeedBaseline]
    ) -> tuple[Floats, Floats, Floats]:
        """Cosine, standing and lexical part of needs with each passage, [rows, passages]."""
        exact = self._rows.vectors[rows].astype(np.float64)
        cosines = np.clip(exact @ encoding.vectors.T.astype(np.float64), -1.0, 1.0)
        standing = self._scorer.standing(
            cosines,
            np.array([[one.mean] for one in baselines]),
            np.array([[one.deviation] for one in baselines]),
        )
        ids = np.concatenate([self._rows.terms[row].ids for row in rows.tolist()])
        weights = np.concatenate([one.weights for one in baselines])
        owner = np.repeat(np.arange(len(rows)), [len(one.weights) for one in baselines])
        masses = np.array([one.mass for one in baselines])
        average = self._data.background.average_length
        lexical = np.zeros_like(cosines)
        for passage, terms in enumerate(encoding.terms):
            counts = terms.counts_of(ids)
            hit = np.flatnonzero(counts)
            got = weights[hit] * saturation(counts[hit], terms.length, average)
            lexical[:, passage] = np.bincount(owner[hit], got, len(rows)) / masses
        return cosines, standing, lexical

    def _rivals_of(self, row: int, baseline: NeedBaseline) -> Floats:
        """The fits of a need's best data, best first."""
        rivals = self._rivals.get(row)
        if rivals is not None:
            return rivals
        need, numbers, data = self._rows.need(row), self._rows.numbers, self._data
        if numbers.edge[row] < np.inf:
            rivals = data.rivals(need, baseline, numbers.best[row].tolist(), numbers.edge[row])
        if rivals is None:
            numbers.set_nearest(row, *data.nearest(need, KEPT))
            rivals = data.rivals(need, baseline, numbers.best[row].tolist(), numbers.edge[row])
        if rivals is None:
            rivals = data.rank(need, np.inf).fits[:RIVALS]
        self._rivals[row] = rivals
        return rivals

    def _add(self, needs: Sequence[Encoding]) -> list[int]:
        return self._rows.add(needs)

    def _set_thresholds(self, rows: list[int], thresholds: list[float]) -> None:
        self._rows.set_thresholds(rows, thresholds)

    def _remove(self, row: int) -> None:
        self._rows.remove(row)
        self._baselines.pop(row, None)
        self._rivals.pop(row, None)
