"""What a caller may see."""

from __future__ import annotations

import pytest
from contex_server.kernel.model import EventFilter
from contex_server.kernel.scope import EVERYTHING, Scope
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("scope", "data_key", "admitted"),
    [
        (EVERYTHING, "payments/stripe", True),
        (EVERYTHING, "", True),
        (Scope(frozenset()), "payments/stripe", False),
        (Scope(frozenset()), "", False),
        (Scope(frozenset({"payments/*"})), "payments/stripe", True),
        (Scope(frozenset({"payments/*"})), "hr/salaries", False),
        (Scope(frozenset({"payments/*", "hr/?"})), "hr/x", True),
        (Scope(frozenset({"*"})), "", False),
    ],
)
def test_a_scope_admits_its_data_keys(scope: Scope, data_key: str, admitted: bool) -> None:
    assert scope.admits(data_key) is admitted
    assert EventFilter(scope=scope).admits_key(data_key) is admitted
    assert scope.is_open is (scope == EVERYTHING)


def test_a_filter_with_a_scope_lets_pass_what_both_admit() -> None:
    payments = Scope(frozenset({"payments/*"}))
    wanted = EventFilter(data_keys=frozenset({"*/stripe"}), scope=payments)
    assert not EventFilter(scope=payments).is_open
    assert wanted.admits_key("payments/stripe")
    assert not wanted.admits_key("payments/adyen")
    assert not wanted.admits_key("hr/stripe")
    assert wanted != EventFilter(data_keys=frozenset({"*/stripe"}))


SCOPES = st.builds(
    Scope, st.none() | st.frozensets(st.text("ab*?", min_size=1, max_size=5), max_size=3)
)


@given(SCOPES, SCOPES, st.text("ab", max_size=6))
def test_scopes_compare_as_what_they_admit(scope: Scope, other: Scope, data_key: str) -> None:
    if scope.covers(other) and other.admits(data_key):
        assert scope.admits(data_key)
    both = scope.intersect(other)
    if both.admits(data_key):
        assert scope.admits(data_key)
        assert other.admits(data_key)
    assert scope.covers(scope)
    assert EVERYTHING.covers(scope)
    assert scope.covers(Scope(frozenset()))
    assert EVERYTHING.intersect(scope) == scope.intersect(EVERYTHING) == scope


def test_an_intersection() -> None:
    some, others = Scope(frozenset({"pay/*", "hr/x"})), Scope(frozenset({"*/x", "pay/stripe/*"}))
    both = some.intersect(others)
    assert both.data_keys == {"pay/*/x", "pay/x", "pay/stripe/*", "hr/x"}
    assert both.admits("pay/x")
    assert not both.admits("hr/y")


def test_scopes_are_told_apart() -> None:
    scopes = [Scope(), *(Scope(frozenset(keys)) for keys in ((), ("a",), ("a", "b"), ("ab",)))]
    assert len({scope.digest for scope in scopes}) == len(scopes)
    assert scopes[0].digest == ""
    assert scopes[3].digest == Scope(frozenset({"b", "a"})).digest
