"""Explains the score of a need and an event."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from contex_server.kernel.model import Event, Match, Need
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.matching.describe import Description
from contex_server.matching.encoding import Encoding
from contex_server.matching.explanation import (
    Explanation,
    PassageScore,
    TermHit,
    counted,
    decision,
    listed,
)
from contex_server.matching.relative.data_index import DataIndex, lexical_of
from contex_server.matching.relative.score import RIVALS, Floats
from contex_server.matching.terms import Word, words_of


def explain(
    data: DataIndex,
    need: Need,
    need_encoding: Encoding,
    event: Event,
    encoding: Encoding,
    description: Description,
    as_of: LogSequence,
    admits: Callable[[str], bool] | None = None,
) -> Explanation:
    """Scores an event for a need as a delivery would, and breaks the score down.

    `encoding` and `description` are the event's; the data are as of `as_of`, and those whose keys
    are admitted are counted.
    """
    background, scorer, crowd = data.background, data.scorer, data.crowd
    (baseline,) = background.baselines([need_encoding])
    ids, weights, mass = need_encoding.terms[0].ids, baseline.weights, baseline.mass
    cosines: Floats = np.clip(
        encoding.vectors.astype(np.float64) @ need_encoding.vectors[0].astype(np.float64), -1, 1
    )
    average = background.average_length
    lexical = np.array([lexical_of(ids, weights, t, average) / mass for t in encoding.terms])
    standing = scorer.standing(cosines, baseline.mean, baseline.deviation)
    fits = scorer.fit(standing, lexical)
    best = int(np.argmax(fits))
    ranking = data.rank(need_encoding, 0.0)
    text = data.text(event.text_digest)
    others = ranking.fits[ranking.serials != (text.serial if text else -1)]
    top = np.sort(np.append(others[:RIVALS], fits[best]))[::-1][:RIVALS]
    rivalry = float(scorer.rivalry(top, crowd).sum())
    shares = scorer.share(fits, np.array(rivalry), crowd)
    scores = scorer.score(standing, lexical, shares)
    parts = float(standing[best]), float(lexical[best]), float(shares[best])
    quotes = [description.quoted(at) for at in range(len(description.passages))]
    passages = [
        PassageScore(quote.path, quote.text, *numbers)
        for quote, *numbers in zip(
            quotes, scores.tolist(), cosines.tolist(), lexical.tolist(), strict=False
        )
    ]
    chosen = passages[min(best, len(passages) - 1)]
    match = data.match_of(
        need, 0, baseline, best, (float(cosines[best]), *parts), float(scores[best])
    )
    match = match._replace(background_as_of=as_of, path=chosen.path, passage_text=chosen.text)
    terms = _term_hits(need.text, encoding, best, data, mass)
    excluded = need.excludes(event.data_key)
    matched = match.score >= need.threshold and not excluded
    rank = 0
    if text is not None and event.data_key in text.data_keys:
        _, all_scores = data.scores(ranking)
        # If FAISS is approximate, the text may be missing in the ranking.
        own = all_scores[ranking.serials == text.serial]
        better = ranking.serials[all_scores > (own[0] if len(own) else match.score)]
        rank = 1 + counted(map(data.data_keys, better.tolist()), admits)
    count = data.count(admits)
    return Explanation(
        match,
        matched,
        _verdict(match, matched, excluded, terms, event, rank, count),
        tuple(scorer.contributions(*parts)),
        terms,
        tuple(sorted(passages, key=lambda passage: -passage.score)),
        rank,
        count,
    )


def _term_hits(
    text: str, encoding: Encoding, passage: int, data: DataIndex, mass: float
) -> tuple[TermHit, ...]:
    background, terms = data.background, encoding.terms[passage]
    hits: list[TermHit] = []
    words: dict[int, Word] = {}
    for word in words_of(text):
        words.setdefault(word.id, word)
    for word in words.values():
        ids = np.array([word.id], np.uint32)
        weight = float(background.rarity(ids)[0])
        got = lexical_of(ids, np.ones(1), terms, background.average_length)
        hits.append(TermHit(word.word, word.stem, weight / mass, weight * got / mass))
    return tuple(hits)


def _verdict(
    match: Match,
    matched: bool,
    excluded: bool,
    terms: tuple[TermHit, ...],
    event: Event,
    rank: int,
    count: int,
) -> str:
    first = decision(match, event, matched=matched, excluded=excluded)
    words = [term.word for term in terms if term.hit > 0 and " " not in term.word]
    meaning = (
        f"the meaning stands {match.standing:.1f} deviations out from the project's usual"
        if match.standing > 0
        else "the meaning is no nearer than is usual in the project"
    )
    hit = f"it has {listed(words)}" if words else "it has none of the need's words"
    place = f", and {rank - 1} of {count:,} data fit better" if rank > 1 else ""
    return f"{first} {meaning.capitalize()}, {hit}{place}."
