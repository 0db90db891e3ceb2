"""What a caller may see."""

from __future__ import annotations

import pytest
from contex_server.kernel.model import EventFilter
from contex_server.kernel.scope import EVERYTHING, Scope


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
