"""Cases of one kind: the first in each run of the tests, all of them in `make test-all`."""

from __future__ import annotations

from typing import Any

import pytest


def one_of(first: Any, *others: Any) -> list[Any]:
    """The values of a parametrized test, of which only the first is tried each time."""
    return [first, *map(thorough, others)]


def thorough(value: Any) -> Any:
    """A value of a parametrized test that is not tried each time."""
    values = value if isinstance(value, tuple) else (value,)
    return pytest.param(*values, marks=pytest.mark.thorough)
