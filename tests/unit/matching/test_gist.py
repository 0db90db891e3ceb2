from __future__ import annotations

import pytest
from contex_server.matching.gist import gist, is_foreign
from hypothesis import given
from hypothesis import strategies as st

KEPT = (
    "contracts, not signed yet",
    "users with no phone, no address",
    "must-have features",
    "need for speed",
    "All Blacks results",
    "How are you",
    "who is on call",
    "Where are the spare keys",
    "what is new",
    "have to pay",
    "I am the owner and the cook",
    "Everything except for the drills",
    "everything but the kitchen sink",
    "those who fell - actual events, not leaflets",
    "loading bays without a roof",
)
"""Nothing in these only asks."""


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
        ("Please tell me when the train is late", "the train is late"),
        ("I'd like to know which rooms are free", "rooms are free"),
        ("let me know if it rains", "it rains"),
        ("everything about invoices but not the paid ones", "invoices"),
        ("deliveries (except for those to islands)", "deliveries"),
        ("stock, but not hops", "stock"),
        ("stock except hops", "stock"),
        ("all vans except van 2", "all vans"),
        ("medication errors, not those caused by a device", "medication errors"),
        *((need, need) for need in KEPT),
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
    assert core in " ".join(need.split()) or set(core.split()) <= {
        *need.split(),
        *(word.strip(" ,;:-\u2013?.!") for word in need.split()),
        *(word.rstrip("?.!") for word in need.split()),
        need,
    }


@pytest.mark.parametrize(
    "need", ["\U0001f37a", "\U0001f6a8 \U0001f525", "x" * 1_000, "???", "住宿税", "Цены на склад"]
)
def test_what_a_model_of_english_cannot_read(need: str) -> None:
    assert is_foreign(need)


@pytest.mark.parametrize("need", ["beer \U0001f37a", "42", "Größen", "API 東京", "x" * 90])
def test_what_it_can_read(need: str) -> None:
    assert not is_foreign(need)
