"""Searches the data that match needs: one rule for registrations and queries."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from contex_server.kernel.model import Match, Need
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.matching.data_index import DataIndex
from contex_server.matching.encoding import Encoding
from contex_server.matching.need_index import best_first

SearchResult = list[tuple[str, tuple[Match, ...]]]


def search(
    data: DataIndex,
    needs: Sequence[tuple[Need, Encoding]],
    as_of: LogSequence,
    admits: Callable[[str], bool] = lambda _: True,
) -> SearchResult:
    """Finds the data that match some needs, among those whose keys are admitted.

    Each need selects its `max_matches` best data whose score reaches its threshold; among equal
    scores, the first by key.

    Returns:
        Each datum once, with the needs that selected it, best first; best datum first.
    """
    by_key: defaultdict[str, list[Match]] = defaultdict(list)
    for index, (need, encoding) in enumerate(needs):
        ranking = data.rank(encoding, data.scorer.lowest_fit(need.threshold, data.crowd))
        shares, scores = data.scores(ranking)
        candidates = (
            (-float(scores[at]), data_key, at)
            for at in np.flatnonzero(scores >= need.threshold).tolist()
            for data_key in data.data_keys(int(ranking.serials[at]))
            if not need.excludes(data_key) and admits(data_key)
        )
        for negated, data_key, at in heapq.nsmallest(need.max_matches, candidates):
            by_key[data_key].append(
                Match(
                    need_index=index,
                    need=need.text,
                    score=-negated,
                    passage=int(ranking.passages[at]),
                    cosine=float(ranking.cosines[at]),
                    standing=float(ranking.standing[at]),
                    lexical=float(ranking.lexical[at]),
                    share=float(shares[at]),
                    mean=ranking.baseline.mean,
                    deviation=ranking.baseline.deviation,
                    threshold=need.threshold,
                    model=data.model.id,
                    scorer=data.scorer.name,
                    background_passages=data.background.passages,
                    background_as_of=as_of,
                )
            )
    result = [(data_key, best_first(matches)) for data_key, matches in by_key.items()]
    result.sort(key=lambda item: (-item[1][0].score, item[0]))
    return result
