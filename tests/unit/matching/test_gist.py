from __future__ import annotations

import pytest
from contex_server.matching.gist import gist
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("need", "core"),
    [
        ("API configuration", "API configuration"),
        ("Which patients are in isolation?", "patients are in isolation"),
        ("Tell me about upcoming operations.", "upcoming operations"),
        ("I want to know when a host goes down", "a host goes down"),
        ("I plan the rota and have to know about every open shift", "open shift"),
        (
            "As the safety officer I want to hear whenever somebody got hurt",
            "somebody got hurt",
        ),
        ("medication errors, not those caused by a device", "medication errors"),
        ("those who fell - actual events, not leaflets", "those who fell - actual events"),
        ("everything but the kitchen sink", "but the kitchen sink"),
        ("all", "all"),
        ("what?", "what"),
        ("Luftqualität in Altstadt", "Luftqualität in Altstadt"),
        ("東京の価格", "東京の価格"),
        ("???", "???"),
        ("not found errors", "not found errors"),
    ],
)  # fmt: skip
def test_what_a_need_asks_for(need: str, core: str) -> None:
    assert gist(need) == core


@given(st.text(min_size=1, max_size=200))
def test_something_is_left_of_any_need_and_nothing_added(need: str) -> None:
    core = gist(need)
    assert core
    assert set(core.split()) <= set(need.split()) | {w.rstrip("?.!") for w in need.split()} | {
        w.strip(" ,;:-\u2013?.!") for w in need.split()
    } | {need}
