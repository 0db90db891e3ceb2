from __future__ import annotations

import numpy as np
from contex_server.matching.score import CosineScorer
from hypothesis import given
from hypothesis import strategies as st

scorer = CosineScorer()


@given(st.lists(st.floats(-1, 1)))
def test_scores_are_cosines_within_0_and_1(cosines: list[float]) -> None:
    scores = scorer.score(np.array(cosines))
    assert scores.tolist() == [max(cosine, 0.0) for cosine in cosines]


@given(st.floats(-1, 1), st.floats(0, 1))
def test_nothing_below_the_floor_reaches_the_threshold(cosine: float, threshold: float) -> None:
    reaches = float(scorer.score(np.array([cosine]))[0]) >= threshold
    assert reaches == (cosine >= scorer.floor(threshold))
