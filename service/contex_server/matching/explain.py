"""Explains the score of a need and an event."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from contex_server.kernel.model import Event, Match, Need
from contex_server.matching.background import Baseline
from contex_server.matching.data_index import DataIndex
from contex_server.matching.describe import Description
from contex_server.matching.encoding import Encoding
from contex_server.matching.explanation import (
    Contribution,
    Explanation,
    PassageScore,
    TermHit,
    counted,
    decision,
    listed,
)
from contex_server.matching.gist import gist
from contex_server.matching.measure import Measured, measure
from contex_server.matching.score import Scorer, log_odds_of, probability
from contex_server.matching.terms import Word, is_pair, words_of

_PARTS = ("standing", "contrast", "surplus")


def explain(
    data: DataIndex,
    need: Need,
    need_encoding: Encoding,
    event: Event,
    encoding: Encoding,
    description: Description,
    admits: Callable[[str], bool] | None = None,
) -> Explanation:
    """Scores an event for a need as a delivery would, and breaks the score down.

    `encoding` and `description` are the event's; only data whose keys are admitted are counted.
    """
    background, scorer = data.background, data.scorer
    (baseline,) = background.baselines([need_encoding])
    passages = measure(need_encoding.vectors[:1], [baseline], encoding, background, scorer)
    measured = passages.best(scorer)
    (parts,) = measured.parts(np.array([0]))
    match = data.match_of(need, 0, baseline, parts)
    scores = probability(
        scorer.log_odds(passages.fits[0], passages.coverage[0] - passages.expected[0])
    )
    quotes = [description.quoted(at) for at in range(len(description.passages))]
    rows = zip(quotes, scores.tolist(), passages.cosines[0].tolist(), strict=False)
    listing = [
        PassageScore(quote.path, quote.text, score, cosine, 0.0) for quote, score, cosine in rows
    ]
    chosen = listing[min(match.passage, len(listing) - 1)]
    match = match._replace(path=chosen.path, passage_text=chosen.text)
    terms = _term_hits(gist(need.text), encoding, data, baseline)
    excluded = need.excludes(event.data_key)
    matched = match.score >= need.threshold and not excluded
    contributions = _contributions(scorer, measured, need.threshold)
    rank = _rank(data, need_encoding, event, match.score, admits)
    return Explanation(
        match,
        matched,
        _verdict(match, matched, excluded, terms, contributions, event),
        contributions,
        terms,
        tuple(sorted(listing, key=lambda passage: -passage.score)),
        rank,
        data.count(admits),
    )


def _contributions(
    scorer: Scorer, measured: Measured, threshold: float
) -> tuple[Contribution, ...]:
    """The terms of the log-odds, each with the value that would just reach the threshold."""
    weights = scorer.weights
    surplus = measured.coverage[0] - measured.expected[0]
    values = measured.standing[0], measured.contrast[0], surplus
    missing = log_odds_of(threshold) - float(measured.log_odds[0])
    found = [Contribution("bias", 1.0, weights.bias)]
    for name, value in zip(_PARTS, map(float, values), strict=True):
        weight = float(getattr(weights, name))
        needed = value + missing / weight if weight > 0 and math.isfinite(missing) else None
        found.append(Contribution(name, value, weight, needed))
    return tuple(found)


def _rank(
    data: DataIndex,
    need: Encoding,
    event: Event,
    score: float,
    admits: Callable[[str], bool] | None,
) -> int:
    """The rank of the event's datum among those that are admitted; 0 if its text is not there."""
    text = data.text(event.text_digest)
    if text is None or event.data_key not in text.data_keys:
        return 0
    ranking = data.rank(need, score)
    better = ranking.serials[probability(ranking.measured.log_odds) > score]
    others = [serial for serial in better.tolist() if serial != text.serial]
    return 1 + counted(map(data.data_keys, others), admits)


def _term_hits(
    text: str, encoding: Encoding, data: DataIndex, baseline: Baseline
) -> tuple[TermHit, ...]:
    """The need's single words: each counts in full if the datum has it anywhere."""
    words: dict[int, Word] = {}
    for word in words_of(text):
        words.setdefault(word.id, word)
    ids = np.array(list(words), np.uint32)
    weights = data.background.rarities(ids) / baseline.mass
    found = np.isin(ids, np.concatenate([terms.ids for terms in encoding.terms]))
    return tuple(
        TermHit(word.word, word.stem, float(weight), float(weight) * bool(hit))
        for word, weight, hit, pair in zip(
            words.values(), weights, found, is_pair(ids), strict=True
        )
        if not pair
    )


def _verdict(
    match: Match,
    matched: bool,
    excluded: bool,
    terms: tuple[TermHit, ...],
    contributions: tuple[Contribution, ...],
    event: Event,
) -> str:
    first = decision(match, event, matched=matched, excluded=excluded)
    words = [term.word for term in terms if term.hit > 0]
    hit = f"it has {listed(words)}" if words else "it has none of the need's words"
    return f"{first} {_meaning(match)}, and {hit}.{_change(matched or excluded, match, terms)}"


def _meaning(match: Match) -> str:
    return (
        f"Its meaning has a cosine of {match.cosine:.2f} with the need, where the need usually "
        f"has {match.mean:.2f} ± {match.deviation:.2f} with data and the datum "
        f"{match.usual:.2f} with needs"
    )


def _change(settled: bool, match: Match, terms: tuple[TermHit, ...]) -> str:
    """What would make a match of a pair that is none."""
    if settled:
        return ""
    missing = [term.word for term in terms if not term.hit]
    ways = [f"a description with {listed(missing)}, if that is true of it"] if missing else []
    lower = math.floor(match.score * 100) / 100  # Rounded up, it would not be reached.
    if lower > 0:
        ways.insert(0, f"a threshold of {lower:.2f}")
    ways.append("a need in the datum's words")
    return f" What would change that: {', or '.join(ways)}."
