from __future__ import annotations

import pytest
from contex_server.kernel.model import Match
from contex_server.matching.explain import _change
from contex_server.matching.explanation import TermHit

MATCH = Match(0, "n", 0.1099, 0, 0.1, 1.0, 0.0, 0.0, 0.1, 0.1, 0.16, "m", "s", 0)
TERMS = (TermHit("ill", "ill", 0.5, 0.0), TermHit("zoo", "zoo", 0.5, 0.5))


@pytest.mark.parametrize(
    ("score", "told"),
    [
        (0.1099, ' a threshold of 0.10, or a description with "ill", if that is true of it, or'),
        (0.009, ' a description with "ill", if that is true of it, or'),
    ],
)
def test_the_threshold_that_is_named_would_be_reached(score: float, told: str) -> None:
    assert f"What would change that:{told}" in _change(False, MATCH._replace(score=score), TERMS)


def test_what_matches_needs_no_change() -> None:
    assert _change(True, MATCH, TERMS) == ""
