"""Finds a project's data by meaning and words."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contex_server.kernel.model import Match, Need
from contex_server.matching.background import Background, Baseline
from contex_server.matching.changes import NO_CHANGE, SearchResult, TextChange, best_first
from contex_server.matching.embedders.port import Vector
from contex_server.matching.encoding import Encoding
from contex_server.matching.measure import Measured, Parts, cosines_of, different_words, rows_of
from contex_server.matching.postings import Postings
from contex_server.matching.score import (
    Floats,
    Scorer,
    log_odds_of,
    probability,
)
from contex_server.matching.terms import TermIds, once, single_words
from contex_server.matching.vectors import ROUNDING, VectorIndex, resized

_FIRST_CANDIDATES = 64
_MAX_CANDIDATES = 4_096
"""Maximum number requested from FAISS when its answers are approximate."""
_SLOTS_PER_STEP = 1_024
"""Passages whose vectors are copied at a time: a search of many that are alike takes no more."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """The texts that answer a need best, best first."""

    serials: NDArray[np.int64]
    measured: Measured
    baseline: Baseline


class _Query(NamedTuple):
    """A need that is searched for."""

    need: Encoding
    baseline: Baseline
    vector: Vector  # [dimension + 1], of length 1
    scale: float  # its product with a row is the row's fit without words, divided by this …
    offset: float  # … and more by this
    coverage: Floats  # of every text


@dataclass(slots=True, eq=False)
class IndexedText:
    """A text that at least one datum has."""

    serial: int  # names the text; never used again
    place: int  # in the columns of texts
    slots: NDArray[np.int64]  # where its passages lie
    words: tuple[TermIds, ...]  # of each passage
    data_keys: set[str]

    @property
    def nbytes(self) -> int:
        """Memory in bytes, without its vectors."""
        return sum(ids.nbytes + 112 for ids in self.words) + 500


class DataIndex:
    """The texts of a project's live data under a model. Not for use by several threads at once.

    A row of the vector index is a passage's vector and, as one more component, its usual cosine
    with needs. With that, a fit without words is one inner product, so that FAISS ranks passages
    by it.
    """

    def __init__(self, model_id: str, scorer: Scorer, background: Background) -> None:
        self.model_id = model_id
        self.scorer = scorer
        self.background = background
        self.dimension = len(background.mean)
        self._vectors = VectorIndex(self.dimension + 1)
        self._postings = Postings()
        self._texts: dict[bytes, IndexedText] = {}
        self._by_serial: dict[int, IndexedText] = {}
        self._digests: dict[str, bytes] = {}
        self._next_serial = 1
        self._free: list[int] = []
        self._free_places: list[int] = []
        # By slot: whose passage it is, and which one.
        self._serial_of = np.zeros(0, np.int64)
        self._place_of = np.zeros(0, np.int64)
        self._passage_of = np.zeros(0, np.int64)
        # By place: the number of a text's different words.
        self._words = np.zeros(0)
        self._text_bytes = 0

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, serial: int) -> bool:
        return serial in self._by_serial

    @property
    def passages(self) -> int:
        """Number of passages indexed."""
        return len(self._vectors)

    @property
    def nbytes(self) -> int:
        """Memory in bytes, of vectors, terms, what belongs to each slot, and the background.

        Costs nothing to ask, also while another thread changes the index.
        """
        columns = self._serial_of, self._place_of, self._passage_of, self._words
        arrays = sum(column.nbytes for column in columns)
        texts = self._vectors.nbytes + self._postings.nbytes + self._text_bytes
        return texts + arrays + self.background.nbytes

    def digest_of(self, data_key: str) -> bytes | None:
        """The digest of a datum's text; None if there is no such datum."""
        return self._digests.get(data_key)

    def text(self, digest: bytes) -> IndexedText | None:
        """The text with this digest, if a datum has it."""
        return self._texts.get(digest)

    def count(self, admits: Callable[[str], bool] | None) -> int:
        """How many data there are whose keys are admitted; None: all."""
        return len(self) if admits is None else sum(map(admits, self._digests))

    def data_keys(self, serial: int) -> set[str]:
        """The data that have a text; empty if there is no such text."""
        text = self._by_serial.get(serial)
        return text.data_keys if text is not None else set()

    def encodings(self, at_most: int | None = None) -> Iterator[Encoding]:
        """The texts in the order of being added, or so many of them, evenly spread.

        Terms are single words.
        """
        step = 1 if at_most is None else -(-len(self._by_serial) // at_most) or 1
        for text in islice(self._by_serial.values(), 0, None, step):
            rows = self._vectors.vectors(text.slots)
            yield Encoding(rows[:, : self.dimension], tuple(map(once, text.words)))

    def put(self, data_key: str, digest: bytes, encoding: Encoding) -> TextChange:
        """Adds a datum, or replaces it. Needs have nothing to follow."""
        before = self._digests.get(data_key)
        if before != digest:
            text = self._texts.get(digest) or self._add(digest, encoding)
            text.data_keys.add(data_key)
            self._digests[data_key] = digest
            if before is not None:
                self._release(data_key, before)
        return NO_CHANGE

    def remove(self, data_key: str) -> TextChange:
        """Removes a datum, if present."""
        digest = self._digests.pop(data_key, None)
        if digest is not None:
            self._release(data_key, digest)
        return NO_CHANGE

    def rank(self, need: Encoding, threshold: float) -> Ranking:
        """Every text whose score reaches the threshold, best first.

        FAISS returns the passages with the highest fit without words. Any other passage has a
        lower one than the last of them, so its words bound its score: those that may reach the
        threshold are measured too, and FAISS is asked for more where words alone don't decide.
        This is Fagin's threshold algorithm. It finds what a full scan would, except where the
        index is so large that FAISS's own answer is approximate.
        """
        (baseline,) = self.background.baselines([need])
        query = self._query(need, baseline)
        weights = self.scorer.weights
        required = log_odds_of(threshold)
        count = _FIRST_CANDIDATES
        while True:
            slots, products = self._vectors.search(query.vector[None], count)
            if count >= len(self._vectors):
                return self._ranking(query, slots[0], required)
            edge = (float(products[0, -1]) + ROUNDING) * query.scale + query.offset
            last = count >= _MAX_CANDIDATES and not self._vectors.is_exact
            if weights.bias + edge < required or last:
                coverage = query.coverage[self._place_of]
                highest = weights.bias + edge + weights.surplus * coverage
                reaching = (coverage > 0) & (highest >= required) & (self._serial_of > 0)
                others = np.flatnonzero(reaching)
                return self._ranking(query, np.union1d(slots[0], others), required)
            count *= 8

    def search(
        self,
        needs: Sequence[Need],
        encodings: Sequence[Encoding],
        admits: Callable[[str], bool] = lambda _: True,
    ) -> SearchResult:
        """Finds the data that match some needs, among those whose keys are admitted.

        Each need selects its `max_matches` best data whose score reaches its threshold; among
        equal scores, the first by key.

        Returns:
            Each datum once, with the needs that selected it, best first; best datum first.
        """
        by_key: defaultdict[str, list[Match]] = defaultdict(list)
        for index, (need, encoding) in enumerate(zip(needs, encodings, strict=True)):
            ranking = self.rank(encoding, need.threshold)
            scores = probability(ranking.measured.log_odds)
            candidates = (
                (-float(scores[at]), data_key, at)
                for at in np.flatnonzero(scores >= need.threshold).tolist()
                for data_key in self.data_keys(int(ranking.serials[at]))
                if not need.excludes(data_key) and admits(data_key)
            )
            best = heapq.nsmallest(need.max_matches, candidates)
            chosen = np.array([at for _, _, at in best], np.int64)
            for (_, data_key, _), parts in zip(best, ranking.measured.parts(chosen), strict=True):
                by_key[data_key].append(self.match_of(need, index, ranking.baseline, parts))
        result = [(data_key, best_first(matches)) for data_key, matches in by_key.items()]
        result.sort(key=lambda item: (-item[1][0].score, item[0]))
        return result

    def match_of(self, need: Need, need_index: int, baseline: Baseline, parts: Parts) -> Match:
        """What is known of a match without its event."""
        return Match(
            need_index,
            need.text,
            parts.score,
            parts.passage,
            parts.cosine,
            parts.standing,
            0.0,
            0.0,
            baseline.mean,
            baseline.deviation,
            need.threshold,
            self.model_id,
            self.scorer.name,
            self.background.data,
            self.background.sequence,
            usual=parts.usual,
            coverage=parts.coverage,
            expected=parts.expected,
            need_id=need.id,
        )

    def _add(self, digest: bytes, encoding: Encoding) -> IndexedText:
        slots = self._take_slots(encoding.passages)
        place = self._take_place()
        words = tuple([single_words(terms) for terms in encoding.terms])
        text = IndexedText(self._next_serial, place, slots, words, set())
        self._next_serial += 1
        self._vectors.put(slots, rows_of(encoding, self.background))
        self._serial_of[slots] = text.serial
        self._place_of[slots] = place
        self._passage_of[slots] = np.arange(len(slots))
        different = once(different_words(words))
        self._words[place] = len(different.ids)
        self._postings.add(place, different)
        self._texts[digest] = self._by_serial[text.serial] = text
        self._text_bytes += text.nbytes
        return text

    def _release(self, data_key: str, digest: bytes) -> None:
        text = self._texts[digest]
        text.data_keys.remove(data_key)
        if text.data_keys:
            return
        del self._texts[digest], self._by_serial[text.serial]
        self._text_bytes -= text.nbytes
        self._postings.remove(text.place, once(different_words(text.words)))
        self._vectors.remove(text.slots)
        self._serial_of[text.slots] = 0
        self._free += text.slots.tolist()
        self._free_places.append(text.place)

    def _take_slots(self, count: int) -> NDArray[np.int64]:
        while len(self._free) < count:
            size = len(self._serial_of)
            grown = max(64, 2 * size)
            self._serial_of = resized(self._serial_of, grown)
            self._place_of = resized(self._place_of, grown)
            self._passage_of = resized(self._passage_of, grown)
            self._free += range(grown - 1, size - 1, -1)
        return np.array([self._free.pop() for _ in range(count)], np.int64)

    def _take_place(self) -> int:
        if not self._free_places:
            size = len(self._words)
            self._words = resized(self._words, max(64, 2 * size))
            self._free_places += range(len(self._words) - 1, size - 1, -1)
        return self._free_places.pop()

    def _query(self, need: Encoding, baseline: Baseline) -> _Query:
        coverage = np.zeros(max(1, len(self._words)))
        for term, weight in zip(baseline.words.tolist(), baseline.weights.tolist(), strict=True):
            if term in self._postings:
                places, _ = self._postings.get(term)
                coverage[places] += weight
        weights = self.scorer.weights
        slope = weights.standing / baseline.deviation + weights.contrast
        row = np.append(slope * need.vectors[0].astype(np.float64), -weights.contrast)
        scale = float(np.linalg.norm(row)) or 1.0
        return _Query(
            need,
            baseline,
            (row / scale).astype(np.float32),
            scale,
            -weights.standing * baseline.mean / baseline.deviation,
            coverage / baseline.mass,
        )

    def _ranking(self, query: _Query, slots: NDArray[np.int64], required: float) -> Ranking:
        """The ranking of the texts of these passages that reach the log-odds required."""
        baseline, scorer = query.baseline, self.scorer
        cosines, usual = np.empty(len(slots)), np.empty(len(slots))
        for start in range(0, len(slots), _SLOTS_PER_STEP):
            step = slice(start, start + _SLOTS_PER_STEP)
            rows = self._vectors.vectors(slots[step])
            cosines[step] = cosines_of(rows[:, :-1], query.need.vectors[0])
            usual[step] = rows[:, -1]
        cosines = np.minimum(cosines, baseline.ceiling)
        standing, contrast = (cosines - baseline.mean) / baseline.deviation, cosines - usual
        fits = scorer.fit(standing, contrast)
        # Of each text its best passage; where fits are equal, the first.
        serials = self._serial_of[slots]
        order = np.lexsort((self._passage_of[slots], -fits, serials))
        best = order[np.unique(serials[order], return_index=True)[1]]
        places = self._place_of[slots[best]]
        coverage, expected = query.coverage[places], baseline.expected(self._words[places])
        log_odds = scorer.log_odds(fits[best], coverage - expected)
        kept = log_odds >= required - ROUNDING
        order = np.flatnonzero(kept)[np.lexsort((serials[best][kept], -log_odds[kept]))]
        at = best[order]
        return Ranking(
            serials[at],
            Measured(
                self._passage_of[slots[at]],
                cosines[at],
                usual[at],
                standing[at],
                contrast[at],
                coverage[order],
                expected[order],
                log_odds[order],
            ),
            baseline,
        )
