"""Finds a project's data by meaning and words."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contex_server.kernel.model import Match, Need
from contex_server.matching.changes import NO_CHANGE, SearchResult, TextChange, best_first
from contex_server.matching.embedders.port import Vector
from contex_server.matching.encoding import Encoding
from contex_server.matching.postings import Postings
from contex_server.matching.relative.background import Background, Model, NeedBaseline
from contex_server.matching.relative.score import RIVALS, Floats, Scorer, saturation
from contex_server.matching.terms import TermIds, Terms
from contex_server.matching.vectors import ROUNDING, VectorIndex, resized

_FIRST_CANDIDATES = 64
_MAX_CANDIDATES = 4_096
"""Maximum number requested from FAISS when its answers are approximate."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """The texts that fit a need, best first, and the need's baseline."""

    serials: NDArray[np.int64]
    passages: NDArray[np.int64]  # the best one of each
    cosines: Floats
    standing: Floats  # z
    lexical: Floats  # l
    fits: Floats  # f
    baseline: NeedBaseline


class _Query(NamedTuple):
    """A need that is searched for."""

    vector: Vector
    baseline: NeedBaseline
    lexical: Floats  # l of every slot


@dataclass(slots=True, eq=False)
class IndexedText:
    """A text that at least one datum has."""

    serial: int  # names the text; never used again
    slots: NDArray[np.int64]  # where its passages lie
    terms: tuple[Terms, ...]  # of each passage
    data_keys: set[str]

    @property
    def nbytes(self) -> int:
        """Memory in bytes, without its vectors."""
        return sum(t.ids.nbytes + t.counts.nbytes + 300 for t in self.terms) + 500


class DataIndex:
    """The texts of a project's live data under a model. Not for use by several threads at once."""

    def __init__(self, model: Model, scorer: Scorer) -> None:
        self.model = model
        self.scorer = scorer
        self.background = Background(model.prior)
        self._vectors = VectorIndex(model.dimension)
        self._postings = Postings()
        self._texts: dict[bytes, IndexedText] = {}
        self._by_serial: dict[int, IndexedText] = {}
        self._digests: dict[str, bytes] = {}
        self._next_serial = 1
        self._free: list[int] = []
        self._serial_of = np.zeros(0, np.int64)
        self._passage_of = np.zeros(0, np.int64)
        self._lengths = np.zeros(0)
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
    def crowd(self) -> float:
        """K of the score, by the passages in the background."""
        return self.scorer.crowd(self.background.passages)

    @property
    def nbytes(self) -> int:
        """Memory in bytes, of vectors, terms, what belongs to each slot, and the background.

        Costs nothing to ask, also while another thread changes the index.
        """
        arrays = self._serial_of.nbytes + self._passage_of.nbytes + self._lengths.nbytes
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

    def put(self, data_key: str, digest: bytes, encoding: Encoding) -> TextChange:
        """Adds a datum, or replaces it."""
        before = self._digests.get(data_key)
        if before == digest:
            return NO_CHANGE
        text, added = self._texts.get(digest), None
        if text is None:
            text = self._add(digest, encoding)
            added = text.serial, encoding
        text.data_keys.add(data_key)
        self._digests[data_key] = digest
        removed = None if before is None else self._release(data_key, before)
        return TextChange(added, removed)

    def remove(self, data_key: str) -> TextChange:
        """Removes a datum, if present."""
        digest = self._digests.pop(data_key, None)
        return NO_CHANGE if digest is None else TextChange(None, self._release(data_key, digest))

    def rank(self, need: Encoding, lowest: float) -> Ranking:
        """Every text whose fit reaches `lowest`, and the best rivals in any case, best first.

        FAISS returns the texts with the highest cosines. Any other text has a lower cosine than
        the last of them, so its words bound its fit: those that may reach `lowest` are measured
        too, and FAISS is asked for more where words alone don't decide. This is Fagin's threshold
        algorithm. It finds what a full scan would, except where the index is so large that FAISS's
        own answer is approximate.
        """
        (baseline,) = self.background.baselines([need])
        query = self._query(need, baseline)
        count = _FIRST_CANDIDATES
        while True:
            slots, nearness = self._vectors.search(need.vectors[:1], count)
            complete = count >= len(self._vectors)
            if complete:
                return self._ranking(query, slots[0])
            edge = float(nearness[0, -1]) + ROUNDING
            last = count >= _MAX_CANDIDATES and not self._vectors.is_exact
            ranking = self._sifted(query, slots[0], edge, lowest, last=last)
            if ranking is not None:
                return ranking
            count *= 8

    def scores(self, ranking: Ranking) -> tuple[Floats, Floats]:
        """The shares and scores of a need's ranking."""
        crowd = self.crowd
        rivalry = self.scorer.rivalry(ranking.fits[:RIVALS], crowd).sum()
        shares = self.scorer.share(ranking.fits, rivalry, crowd)
        return shares, self.scorer.score(ranking.standing, ranking.lexical, shares)

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
            ranking = self.rank(encoding, self.scorer.lowest_fit(need.threshold, self.crowd))
            shares, scores = self.scores(ranking)
            candidates = (
                (-float(scores[at]), data_key, at)
                for at in np.flatnonzero(scores >= need.threshold).tolist()
                for data_key in self.data_keys(int(ranking.serials[at]))
                if not need.excludes(data_key) and admits(data_key)
            )
            for negated, data_key, at in heapq.nsmallest(need.max_matches, candidates):
                cosine, standing = ranking.cosines[at], ranking.standing[at]
                parts = cosine, standing, ranking.lexical[at], shares[at]
                passage = int(ranking.passages[at])
                match = self.match_of(need, index, ranking.baseline, passage, parts, -negated)
                by_key[data_key].append(match)
        result = [(data_key, best_first(matches)) for data_key, matches in by_key.items()]
        result.sort(key=lambda item: (-item[1][0].score, item[0]))
        return result

    def match_of(
        self,
        need: Need,
        need_index: int,
        baseline: NeedBaseline,
        passage: int,
        parts: tuple[float, float, float, float],
        score: float,
    ) -> Match:
        """What is known of a match without its event; `parts` are cosine, z, l and s."""
        cosine, standing, lexical, share = map(float, parts)
        return Match(
            need_index,
            need.text,
            score,
            passage,
            cosine,
            standing,
            lexical,
            share,
            baseline.mean,
            baseline.deviation,
            need.threshold,
            self.model.id,
            self.scorer.name,
            self.background.passages,
            need_id=need.id,
        )

    def nearest(self, need: Encoding, count: int) -> tuple[list[int], Floats, float]:
        """At most `count` texts with the highest cosines.

        Returns:
            Serials, the cosines of their nearest passages, and the edge: the highest cosine that
            a passage of any other text may have.
        """
        slots, nearness = self._vectors.search(need.vectors[:1], _FIRST_CANDIDATES)
        serials = self._serial_of[slots[0]]
        first = np.sort(np.unique(serials, return_index=True)[1])
        if len(first) > count:
            edge = float(nearness[0, first[count]])
        elif len(serials) < len(self._vectors):
            edge = float(nearness[0, -1])
        else:
            edge = -np.inf
        kept = first[:count]
        return serials[kept].tolist(), nearness[0, kept], edge

    def rivals(
        self, need: Encoding, baseline: NeedBaseline, serials: Iterable[int], edge: float
    ) -> Floats | None:
        """The best `RIVALS` fits of all texts that count as rivals, best first.

        Takes what `nearest` returned, and ignores texts that are gone since. None if others may
        be better than these by their cosine alone.
        """
        texts = [text for s in serials if (text := self._by_serial.get(s)) is not None]
        slots = np.concatenate([np.empty(0, np.int64), *(text.slots for text in texts)])
        query = self._query(need, baseline)
        ranking = self._sifted(query, slots, edge + ROUNDING, np.inf)
        return None if ranking is None else ranking.fits[:RIVALS]

    def _add(self, digest: bytes, encoding: Encoding) -> IndexedText:
        slots = self._take_slots(encoding.passages)
        text = IndexedText(self._next_serial, slots, encoding.terms, set())
        self._next_serial += 1
        self._vectors.put(slots, encoding.vectors)
        self._serial_of[slots] = text.serial
        self._passage_of[slots] = np.arange(len(slots))
        for slot, terms in zip(slots.tolist(), encoding.terms, strict=True):
            self._lengths[slot] = terms.length
            self._postings.add(slot, terms)
        self._texts[digest] = self._by_serial[text.serial] = text
        self._text_bytes += text.nbytes
        self.background.add(encoding)
        return text

    def _release(self, data_key: str, digest: bytes) -> tuple[int, Encoding] | None:
        text = self._texts[digest]
        text.data_keys.remove(data_key)
        if text.data_keys:
            return None
        del self._texts[digest], self._by_serial[text.serial]
        self._text_bytes -= text.nbytes
        encoding = Encoding(self._vectors.vectors(text.slots), text.terms)
        self.background.remove(encoding)
        for slot, terms in zip(text.slots.tolist(), text.terms, strict=True):
            self._postings.remove(slot, terms)
        self._vectors.remove(text.slots)
        self._serial_of[text.slots] = 0
        self._free += text.slots.tolist()
        return text.serial, encoding

    def _take_slots(self, count: int) -> NDArray[np.int64]:
        while len(self._free) < count:
            size = len(self._serial_of)
            grown = max(64, 2 * size)
            self._serial_of = resized(self._serial_of, grown)
            self._passage_of = resized(self._passage_of, grown)
            self._lengths = resized(self._lengths, grown)
            self._free += range(grown - 1, size - 1, -1)
        return np.array([self._free.pop() for _ in range(count)], np.int64)

    def _query(self, need: Encoding, baseline: NeedBaseline) -> _Query:
        lexical = np.zeros(len(self._serial_of))
        average = self.background.average_length
        for term, weight in zip(need.terms[0].ids.tolist(), baseline.weights.tolist(), strict=True):
            if term in self._postings:
                slots, counts = self._postings.get(term)
                lexical[slots] += weight * saturation(counts, self._lengths[slots], average)
        return _Query(need.vectors[0], baseline, lexical / baseline.mass)

    def _sifted(
        self,
        query: _Query,
        slots: NDArray[np.int64],
        edge: float,
        lowest: float,
        *,
        last: bool = False,
    ) -> Ranking | None:
        """The ranking of some passages and of all others that reach `lowest` or are rivals.

        None if another passage may count by its cosine alone, which is at most `edge`. With `last`
        it settles for these passages and those that have a word of the need.
        """
        ranking, baseline, lexical = self._ranking(query, slots), query.baseline, query.lexical
        second = float(ranking.fits[RIVALS - 1]) if len(ranking.fits) >= RIVALS else -np.inf
        rival_floor = self.scorer.rival_floor(self.crowd)
        required = min(lowest, max(second, rival_floor))
        standing = self.scorer.standing(edge, baseline.mean, baseline.deviation)
        if not last and float(self.scorer.fit(standing, np.zeros(()))) >= required:
            return None
        others = np.flatnonzero((lexical > 0) & (self.scorer.fit(standing, lexical) >= required))
        together = np.union1d(slots, others)
        return ranking if len(together) == len(slots) else self._ranking(query, together)

    def _ranking(self, query: _Query, slots: NDArray[np.int64]) -> Ranking:
        baseline = query.baseline
        cosines = self._vectors.cosines(query.vector, slots)
        standing = self.scorer.standing(cosines, baseline.mean, baseline.deviation)
        part = query.lexical[slots]
        fits = self.scorer.fit(standing, part)
        # Best first; where fits are equal, the first text and passage.
        order = np.lexsort((self._passage_of[slots], self._serial_of[slots], -fits))
        _, first = np.unique(self._serial_of[slots][order], return_index=True)
        order = order[np.sort(first)]
        slots = slots[order]
        return Ranking(
            self._serial_of[slots],
            self._passage_of[slots],
            cosines[order],
            standing[order],
            part[order],
            fits[order],
            baseline,
        )


def lexical_of(ids: TermIds, rarity: Floats, terms: Terms, average_length: float) -> float:
    """What a passage gets for a need's terms, before the division by what a perfect one gets."""
    return float(rarity @ saturation(terms.counts_of(ids), terms.length, average_length))
