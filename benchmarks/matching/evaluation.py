"""What the score is worth on a set, and what the usual alternatives are worth there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from contex_server.kernel.model import Agent, Need
from contex_server.matching.background import Prior
from contex_server.matching.data_index import DataIndex
from contex_server.matching.encoding import Encoding
from contex_server.matching.need_index import NeedIndex
from contex_server.matching.score import Floats, Scorer
from numpy.typing import NDArray

from benchmarks.matching.baselines import Bm25, mix, rrf
from benchmarks.matching.encoded import Encoded
from benchmarks.matching.fitting import logistic
from benchmarks.matching.projects import Project, judgements, measured, sampled
from benchmarks.matching.quality import (
    WORTH_A_LOOK,
    RankingQuality,
    best_f1,
    calibration_error,
    f1,
    ranking_quality,
)
from benchmarks.matching.sets import SEED
from benchmarks.matching.splits import near_duplicates

Method = Callable[[Project], Floats]
OURS = "Contex"
_SAMPLE_SEED = 2
_CASES = 40
_CASE_SIZE = 200


@dataclass(frozen=True, slots=True, eq=False)
class Rival:
    """A way to score, made comparable: a logistic curve and a threshold from the train half."""

    name: str
    method: Method
    slope: float
    bias: float
    threshold: float

    def probabilities(self, project: Project) -> Floats:
        return 1 / (1 + np.exp(-(self.slope * self.method(project) + self.bias)))


@dataclass(frozen=True, slots=True)
class DecisionQuality:
    """Of all pairs of many projects.

    Attributes:
        given: F1 at the threshold that was chosen on the train half.
        best: F1 at the threshold that is best here.
        best_threshold: That threshold.
        error: Expected calibration error over all pairs.
        error_above: The same over pairs with at least 0.02.
    """

    given: float
    best: float
    best_threshold: float
    error: float
    error_above: float


@dataclass(frozen=True, slots=True, eq=False)
class SetQuality:
    """Everything that is reported of a set.

    Attributes:
        ranking: By method, over all documents.
        decisions: By method, over projects of all sizes.
        by_size: By project size, ours and the cosine.
        near_misses: Share of wrong first places that are near duplicates of a right document.
        pairs: Probabilities of ours and what is right, of all sizes pooled.
        alike: Which of these pairs are right if near duplicates of a right document are too.
        cosine_pairs: Probabilities of the cosine for the same pairs.
    """

    name: str
    needs: int
    documents: int
    ranking: Mapping[str, RankingQuality]
    decisions: Mapping[str, DecisionQuality]
    by_size: Mapping[int, tuple[DecisionQuality, DecisionQuality]]
    near_misses: float
    pairs: tuple[Floats, NDArray[np.bool_]]
    alike: NDArray[np.bool_]
    cosine_pairs: Floats


def rivals(train: Sequence[Project], whole: Project, scorer: Scorer) -> list[Rival]:
    """Ours and the alternatives, each with what it needs from the train half.

    Args:
        train: Projects of many sizes.
        whole: All documents; the mix is chosen where it ranks best there.
        scorer: Ours.
    """
    parts = np.linspace(0.1, 0.9, 17)
    part = max(
        parts,
        key=lambda p: ranking_quality(mix(whole.cosines, whole.bm25, p), whole.right).mrr,
    )
    methods: dict[str, Method] = {
        "cosine": lambda p: p.cosines,
        "BM25": lambda p: p.bm25,
        "RRF, k = 60": lambda p: rrf(p.cosines, p.bm25),
        f"mix, {part:.2f} cosine": lambda p: mix(p.cosines, p.bm25, part),
    }
    right = np.concatenate([p.right.ravel() for p in train])
    found = [Rival(OURS, lambda p: p.scores(scorer), 0, 0, scorer.weights.default_threshold)]
    for name, method in methods.items():
        values = np.concatenate([method(p).ravel() for p in train])
        scale = float(values.std())
        slope, bias = logistic(values[:, None] / scale, right, np.ones(len(right)))
        threshold = best_f1(values, right)[1]
        curve = float(slope) / scale, float(bias)
        found.append(Rival(name, method, *curve, float(_curve(np.array(threshold), *curve))))
    return found


def evaluate(
    encoded: Encoded,
    needs: NDArray[np.int64],
    prior: Prior,
    scorer: Scorer,
    methods: Sequence[Rival],
) -> SetQuality:
    """Measures a set.

    Args:
        encoded: The set.
        needs: The needs to ask: none that anything was fitted on.
        prior: A background that knows nothing of them.
        scorer: The formula.
        methods: Ours first.
    """
    everything = np.arange(len(encoded.documents))
    whole = measured(encoded, Bm25(encoded), everything, needs, prior, scorer)
    projects = sampled(encoded, needs, prior, scorer, seed=_SAMPLE_SEED)
    cosine = methods[1]
    near = near_duplicates(encoded)
    alike = judgements(encoded).astype(np.float32) @ near.astype(np.float32) > 0
    by_size = {
        size: (
            _decisions([p for p in projects if p.size == size], methods[0]),
            _decisions([p for p in projects if p.size == size], cosine),
        )
        for size in sorted({p.size for p in projects})
    }
    return SetQuality(
        encoded.set.name,
        len(needs),
        len(everything),
        rankings(whole, methods),
        {m.name: _decisions(projects, m) for m in methods},
        by_size,
        _near_misses(whole, scorer, near),
        _pooled(projects, methods[0]),
        np.concatenate([alike[np.ix_(p.needs, p.documents)].ravel() for p in projects]),
        _pooled(projects, cosine)[0],
    )


def rankings(project: Project, methods: Sequence[Rival]) -> dict[str, RankingQuality]:
    """How well each method orders the documents of a project in which every need is answered."""
    return {m.name: ranking_quality(m.method(project), project.right) for m in methods}


def stability(
    encoded: Encoded, strangers: Encoded, prior: Prior, scorer: Scorer
) -> tuple[float, float]:
    """How far probabilities move when a project of 200 gets a document of another set.

    Returns:
        The largest move of any pair, and what 999 of 1,000 pairs that had 0.02 stay below.
    """
    rng = np.random.default_rng(SEED)
    moves = []
    for _ in range(_CASES):
        documents = rng.permutation(len(encoded.documents))[:_CASE_SIZE]
        index = encoded.index(documents.tolist(), prior, scorer)
        asked = [encoded.needs[at] for at in rng.permutation(len(encoded.needs))[:25]]
        before = [_by_serial(index, need) for need in asked]
        at = int(rng.integers(len(strangers.documents)))
        index.put("stranger", b"stranger", strangers.documents[at])
        for need, old in zip(asked, before, strict=True):
            new = _by_serial(index, need)
            kept = old >= WORTH_A_LOOK
            moves.append(np.abs(new[: len(old)] - old)[kept])
    together = np.concatenate(moves)
    return float(together.max()), float(np.quantile(together, 0.999))


def both_directions(encoded: Encoded, prior: Prior, scorer: Scorer) -> tuple[float, int, int]:
    """Asks for data by need, and for needs by datum.

    Returns:
        The largest difference of scores, how many pairs only one direction has, and how
        many there are.
    """
    rng = np.random.default_rng(SEED)
    threshold = 0.05
    difference, unequal, pairs = 0.0, 0, 0
    for _ in range(4):
        documents = rng.permutation(len(encoded.documents))[:_CASE_SIZE]
        asked = rng.permutation(len(encoded.needs))[:100].tolist()
        index = encoded.index(documents.tolist(), prior, scorer)
        wanted = tuple(
            Need(encoded.set.needs[at].text, at.to_bytes(16), threshold, len(documents))
            for at in asked
        )
        needs = NeedIndex(index)
        encodings = [encoded.needs[at] for at in asked]
        needs.set_agent(Agent("agent", wanted, threshold, len(documents), 0, 0), encodings)
        forth = {
            (key, match.need_index): match.score
            for key, matches in index.search(wanted, encodings)
            for match in matches
        }
        back: dict[tuple[str, int], float] = {}
        texts = [encoded.documents[at] for at in documents.tolist()]
        for at, text, found in zip(documents.tolist(), texts, needs.scan(texts), strict=True):
            known = index.text(at.to_bytes(16))
            serial = None if known is None else known.serial
            for matches in needs.match(text, found, str(at), serial).values():
                back |= {(str(at), match.need_index): match.score for match in matches}
        unequal += len(forth.keys() ^ back.keys())
        pairs += len(forth)
        common = forth.keys() & back.keys()
        difference = max(difference, *(abs(forth[pair] - back[pair]) for pair in common))
    return difference, unequal, pairs


def _by_serial(index: DataIndex, need: Encoding) -> Floats:
    ranking = index.rank(need, -1.0)
    scores = index.scores(ranking)[1]
    found = np.empty(len(scores))
    found[ranking.serials - 1] = scores
    return found


def _decisions(projects: Sequence[Project], method: Rival) -> DecisionQuality:
    scores, right = _pooled(projects, method)
    best, at = best_f1(scores, right)
    return DecisionQuality(
        f1(scores, right, method.threshold),
        best,
        at,
        calibration_error(scores, right),
        calibration_error(scores, right, WORTH_A_LOOK),
    )


def _pooled(projects: Sequence[Project], method: Rival) -> tuple[Floats, NDArray[np.bool_]]:
    of_pairs = method.method if method.name == OURS else method.probabilities
    return (
        np.concatenate([of_pairs(p).ravel() for p in projects]),
        np.concatenate([p.right.ravel() for p in projects]),
    )


def _near_misses(whole: Project, scorer: Scorer, near: NDArray[np.bool_]) -> float:
    first = whole.scores(scorer).argmax(1)
    missed = ~whole.right[np.arange(len(first)), first]
    alike = (whole.right[missed] & near[first[missed]]).any(1)
    return float(alike.mean()) if missed.any() else 0.0


def _curve(values: Floats, slope: float, bias: float) -> Floats:
    return 1 / (1 + np.exp(-(slope * values + bias)))
