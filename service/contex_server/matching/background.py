"""What is usual: of cosines, and of words.

A *snapshot* sums up a project's data at one moment: mean and second moment of their vectors, and
how many passages have each word. Mixed with the shipped prior it is a *background*, against which
every score is computed until the next one. Snapshots are taken when a project has 100, 1,000,
10,000 … data, and each takes effect by an event of the log, so that every server decides alike and
decisions of the past can be recomputed. Until the first, the prior alone is the background.

Over passages with mean m and covariance C, a need q has the mean cosine q·m and the variance qᵀCq:
no scan is needed to know how a need scores against a whole project.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from io import BytesIO
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from contex_server.kernel.model import BEGINNING
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.matching.embedders.port import Vector, unit
from contex_server.matching.encoding import Encoding
from contex_server.matching.score import Floats, by_chance
from contex_server.matching.terms import TermIds, look_up, single_words

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
"""Numbers of data at which a project's background is taken anew."""
PRIOR_DATA = 60
"""The shipped prior weighs as much as this many different data of the project."""
OWN_MOMENTS = 0.2
"""What a project's own moments weigh at most, under the built-in model. With more, F1 is a little
better, and the first snapshot takes away half of what agents got until then (ADR 26)."""
NEAREST_NEEDS = 8
"""The shipped needs that a passage is compared with: the nearest ones."""
_SPARE_NEEDS = 8
"""More that are measured exactly, since the nearest are found with rounded products."""
ALIKE_COSINE = 0.7
"""Data whose heads are as near to one another say the same in other words; the first is counted."""
MAX_TEXTS = 20_000
"""A larger project is summed up by a sample: nothing is matched meanwhile."""
_COMPARED = 1_000
"""Different data that further ones are compared with, at most."""
_FLUSH = 64
"""Texts whose moments are added together."""
PASSAGES_PER_TEXT = 8
"""Maximum number of passages counted per text, so that no long document dominates."""
MIN_DEVIATION = 0.02
MAX_TERMS = 100_000
"""The words that a snapshot keeps: the most frequent ones, of those that occur twice."""
_MAX_BYTES = 64 * 1024 * 1024
"""What an unpacked snapshot may take: one of 4,000 dimensions and `MAX_TERMS` words is smaller."""
_MAX_DATA = 2**53
_FOREIGN_STANDING = 2.0
"""The highest standing of a need in a script that the model can't read: to such a model all texts
of that script are alike, so that words have to decide."""
_RARE = 0.0005
"""Half a passage in a thousand: the share that an unknown word is given."""


class SnapshotDamaged(Exception):
    """Bytes that are no snapshot, or none of this model."""


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """What is usual in texts and needs in general, under one model."""

    mean: Floats  # [dimension], the mean vector of passages
    second: Floats  # [dimension, dimension], the mean of x xᵀ
    needs: Vector  # [n, dimension], float32: needs of many trades
    term_ids: TermIds  # ascending: the known terms
    term_share: NDArray[np.float32]  # the share of passages that contain each
    latin_only: bool = False  # whether the model reads no other script
    own_moments: float = 1.0  # what a project's moments weigh beside these at most

    def under(self, passages: Vector, needs: Vector, *, latin_only: bool) -> Prior:
        """The same words with the moments under another model; a row of length 1 for each text."""
        rows = passages.astype(np.float64)
        return replace(
            self,
            mean=rows.mean(0),
            second=rows.T @ rows / len(rows),
            needs=needs,
            latin_only=latin_only,
            own_moments=1.0,
        )

    def usual_cosines(self, passages: Vector) -> Floats:
        """The mean cosine of each passage, a row, with the needs nearest to it, [passages].

        Which other passages there are changes no bit.
        """
        count = min(NEAREST_NEEDS, len(self.needs))
        near = min(count + _SPARE_NEEDS, len(self.needs))
        rounded = passages @ self.needs.T
        chosen = np.argpartition(rounded, len(self.needs) - near, axis=1)[:, -near:]
        needs = self.needs[chosen].astype(np.float64)
        cosines = np.sort(np.vecdot(needs, passages.astype(np.float64)[:, None]), axis=1)
        usual: Floats = cosines[:, -count:].mean(1)
        return usual


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """What was usual in a project."""

    data: int
    different: int  # data that are counted: of those that say the same, the first
    mean: Floats  # [dimension]
    second: Floats  # [dimension, dimension]
    term_ids: TermIds  # ascending
    term_share: NDArray[np.float32]

    @classmethod
    def of(cls, encodings: Iterable[Encoding], data: int) -> Snapshot:
        """Sums up the texts of that many data.

        Of texts that are alike only the first counts: twenty that say the same are no more usual
        than one, and so don't take standing from each other.
        """
        summary = Summary()
        for text in encodings:
            summary.add(text)
        return summary.snapshot(data)

    def pack(self) -> bytes:
        """The snapshot as it is stored: a compressed numpy archive."""
        buffer = BytesIO()
        np.savez_compressed(
            buffer,
            counts=np.array([self.data, self.different], np.int64),
            mean=self.mean.astype(np.float32),
            second=self.second[np.triu_indices(len(self.mean))].astype(np.float32),
            term_ids=self.term_ids,
            term_share=self.term_share,
        )
        return buffer.getvalue()

    @classmethod
    def unpack(cls, packed: bytes) -> Snapshot:
        """Reads what `pack` wrote.

        Raises:
            SnapshotDamaged: It is nothing that `pack` wrote.
        """
        try:
            with ZipFile(BytesIO(packed)) as sizes:
                if sum(member.file_size for member in sizes.infolist()) > _MAX_BYTES:
                    raise SnapshotDamaged(f"larger than {_MAX_BYTES >> 20} MiB")
            with np.load(BytesIO(packed)) as archive:
                return cls._read(archive)
        except (
            BadZipFile,
            EOFError,
            MemoryError,
            OSError,
            KeyError,
            TypeError,
            ValueError,
            zlib.error,
        ) as error:
            raise SnapshotDamaged(f"no snapshot: {error}") from error

    @classmethod
    def _read(cls, archive: Mapping[str, NDArray[Any]]) -> Snapshot:
        data, different = archive["counts"].tolist()
        mean, triangle = archive["mean"].astype(np.float64), archive["second"]
        ids, shares = archive["term_ids"], archive["term_share"]
        size = len(mean)
        # Before the square is made: whatever the numbers of dimensions say, it has their product.
        if mean.ndim != 1 or triangle.shape != (size * (size + 1) // 2,):
            raise ValueError("its moments do not fit together")
        if ids.dtype != np.uint32 or shares.shape != ids.shape or (ids[1:] <= ids[:-1]).any():
            raise ValueError("its words are not in order")
        if not all(np.isfinite(numbers).all() for numbers in (mean, triangle, shares)):
            raise ValueError("its numbers are not finite")
        if not 0 <= different <= data <= _MAX_DATA:
            raise ValueError("it sums up no number of data")
        return cls(data, different, mean, _square(triangle, size), ids, shares)


class Summary:
    """A snapshot in the making: texts are added one by one, as time allows."""

    def __init__(self) -> None:
        self._frequencies: Counter[int] = Counter()
        self._passages = self._different = 0
        self._mean: Floats | float = 0.0
        self._second: Floats | float = 0.0
        self._heads = np.zeros((0, 0), np.float32)
        self._pending: list[Vector] = []

    def add(self, text: Encoding) -> None:
        """Adds a text, unless an earlier one says the same."""
        head = text.vectors[0]
        if not self._different:
            self._heads = np.zeros((_COMPARED, len(head)), np.float32)
        known = self._heads[: min(self._different, _COMPARED)]
        if len(known) and float((known @ head).max()) >= ALIKE_COSINE:
            return
        if self._different < _COMPARED:
            self._heads[self._different] = head
        self._different += 1
        self._pending.append(text.vectors[:PASSAGES_PER_TEXT])
        if len(self._pending) >= _FLUSH:
            self._flush()
        for terms in text.terms[:PASSAGES_PER_TEXT]:
            self._frequencies.update(single_words(terms).tolist())
            self._passages += 1

    def snapshot(self, data: int) -> Snapshot:
        """The snapshot of the texts so far, which are those of that many data."""
        self._flush()
        frequencies, passages = self._frequencies, self._passages
        kept = sorted(term for term, n in frequencies.most_common(MAX_TERMS) if n > 1)
        return Snapshot(
            data,
            self._different,
            np.asarray(self._mean / passages, np.float64),
            np.asarray(self._second / passages, np.float64),
            np.array(kept, np.uint32),
            np.array([frequencies[term] / passages for term in kept], np.float32),
        )

    def _flush(self) -> None:
        # Many at once: one row's products alone take longer to add than to compute.
        if self._pending:
            rows = np.concatenate(self._pending).astype(np.float64)
            self._pending.clear()
            self._mean = self._mean + rows.sum(0)
            self._second = self._second + rows.T @ rows


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """A need against a background."""

    mean: float  # of its cosines
    deviation: float  # of its cosines
    words: TermIds  # its single words, ascending
    weights: Floats  # of each
    shares: Floats  # of passages that have each
    mass: float  # the sum of the weights; 1 if there are no words
    ceiling: float  # what a cosine counts at most

    def expected(self, words: Floats) -> Floats:
        """The share of the need's words that data with so many words have by chance."""
        total: Floats = self.weights @ by_chance(self.shares[:, None], words[None]) / self.mass
        return total


@dataclass(frozen=True, slots=True, eq=False)
class Background:
    """What scores are computed against."""

    sequence: LogSequence  # of the event since which it holds; BEGINNING for the prior alone
    data: int  # of the project, that it sums up
    mean: Floats
    covariance: Floats  # within the shipped texts and within the project, not between the two
    term_ids: TermIds  # the project's own, ascending
    term_share: NDArray[np.float32]
    prior: Prior
    weight: float  # of the project's words, 0 to 1; the rest is the prior's

    @property
    def nbytes(self) -> int:
        """Memory in bytes of what is the project's own: the prior alone is shared by all."""
        own = self.mean, self.covariance, self.term_ids, self.term_share
        return sum(array.nbytes for array in own) if self.data else 0

    def shares(self, ids: TermIds) -> Floats:
        """The share of passages that have each term."""
        shares = (1 - self.weight) * look_up(ids, self.prior.term_ids, self.prior.term_share)
        shares += self.weight * look_up(ids, self.term_ids, self.term_share)
        return np.asarray(shares, np.float64)

    def rarities(self, ids: TermIds) -> Floats:
        """The weight of each term."""
        return rarity(self.shares(ids))

    def baselines(self, needs: Sequence[Encoding]) -> list[Baseline]:
        """The baseline of each need."""
        if not needs:
            return []
        vectors = np.concatenate([need.vectors[:1] for need in needs]).astype(np.float64)
        means = vectors @ self.mean
        variances = np.vecdot(vectors @ self.covariance, vectors)
        deviations = np.sqrt(np.maximum(variances, MIN_DEVIATION**2))
        found = []
        for need, mean, deviation in zip(needs, means.tolist(), deviations.tolist(), strict=True):
            words = single_words(need.terms[0])
            shares = self.shares(words)
            weights = rarity(shares)
            mass = float(weights.sum()) or 1.0
            ceiling = 1.0
            if need.foreign and self.prior.latin_only:
                ceiling = mean + _FOREIGN_STANDING * deviation
            found.append(Baseline(mean, deviation, words, weights, shares, mass, ceiling))
        return found


def background(
    prior: Prior, snapshot: Snapshot | None = None, sequence: LogSequence = BEGINNING
) -> Background:
    """The background that a snapshot makes with the prior, since its event."""
    shipped = _covariance(prior)
    if snapshot is None:
        no_ids, no_shares = np.empty(0, np.uint32), np.empty(0, np.float32)
        return Background(sequence, 0, prior.mean, shipped, no_ids, no_shares, prior, 0.0)
    own = snapshot.different / (snapshot.different + PRIOR_DATA)
    moments = min(own, prior.own_moments)
    return Background(
        sequence,
        snapshot.data,
        (1 - moments) * prior.mean + moments * snapshot.mean,
        (1 - moments) * shipped + moments * _covariance(snapshot),
        snapshot.term_ids,
        snapshot.term_share,
        prior,
        own,
    )


def _covariance(texts: Prior | Snapshot) -> Floats:
    return texts.second - np.outer(texts.mean, texts.mean)


def size_reached(data: int) -> int:
    """The largest of `SIZES` that so many data reach; 0 if none."""
    return max((size for size in SIZES if size <= data), default=0)


def rarity(shares: Floats) -> Floats:
    """The weight of words: the square root of their inverse document frequency.

    The root brings rare and common words closer together (ADR 8).
    """
    weights: Floats = np.sqrt(np.maximum(0.0, -np.log(np.minimum(shares + _RARE, 1.0))))
    return weights


def pack_prior(prior: Prior) -> bytes:
    """The prior as a compressed numpy archive: second moment as a triangle, needs in 8 bits."""
    buffer = BytesIO()
    np.savez_compressed(
        buffer,
        mean=prior.mean.astype(np.float32),
        second=prior.second[np.triu_indices(len(prior.mean))].astype(np.float16),
        needs=np.rint(prior.needs * (127 / np.abs(prior.needs).max())).astype(np.int8),
        term_ids=prior.term_ids,
        term_share=prior.term_share.astype(np.float16),
    )
    return buffer.getvalue()


def unpack_prior(packed: bytes) -> Prior:
    """Reads what `pack_prior` wrote."""
    with np.load(BytesIO(packed)) as archive:
        mean = archive["mean"].astype(np.float64)
        return Prior(
            mean,
            _square(archive["second"], len(mean)),
            unit(archive["needs"].astype(np.float32)),
            archive["term_ids"],
            archive["term_share"].astype(np.float32),
        )


def _square(triangle: NDArray[np.floating], size: int) -> Floats:
    square = np.zeros((size, size))
    square[np.triu_indices(size)] = triangle.astype(np.float64)
    return square + np.triu(square, 1).T


@cache
def shipped_prior(*, tuned: bool = True) -> Prior:
    """The prior of the built-in model, or of its former one; `make fit-matching` writes the first.

    The earliest model shares the former one's: their vectors of a text have a cosine of 0.999.
    """
    packed = _data() / ("prior.npz" if tuned else "prior-untuned.npz")
    own_moments = OWN_MOMENTS if tuned else 1.0
    return replace(unpack_prior(packed.read_bytes()), latin_only=True, own_moments=own_moments)


@cache
def shipped_texts() -> tuple[str, ...]:
    """Texts of many kinds, to build the prior of another model from."""
    return _lines("prior.txt")


@cache
def shipped_needs() -> tuple[str, ...]:
    """Needs of many kinds, likewise."""
    return _lines("needs.txt")


def _data() -> Traversable:
    return files("contex_server.matching") / "data"


def _lines(name: str) -> tuple[str, ...]:
    text = (_data() / name).read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))
