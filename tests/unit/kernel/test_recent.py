"""What was used lately is kept, within its bytes."""

from __future__ import annotations

import random

from contex_server.kernel.recent import Recent


def test_what_is_asked_for_stays() -> None:
    recent: Recent[int, str] = Recent(1_000, lambda _, value: len(value))
    recent.put(0, "x" * 10)
    for key in range(1, 1_000):
        recent.put(key, "y" * 10)
        assert recent.get(key) == "y" * 10
        assert recent.get(0) == "x" * 10
    assert recent.get(1) is None


def test_its_bytes() -> None:
    recent: Recent[int, str] = Recent(1_000, lambda _, value: len(value))
    chosen = random.Random(1)
    kept: dict[int, str] = {}
    for _ in range(5_000):
        key = chosen.randrange(300)
        if (found := recent.get(key)) is None:
            kept[key] = "x" * chosen.randrange(600)
            recent.put(key, kept[key])
        else:
            assert found == kept[key]
        generations = (recent._young, recent._old)
        assert sum(len(value) for each in generations for value in each.values()) <= 1_000


def test_what_is_too_large_is_not_kept() -> None:
    recent: Recent[int, str] = Recent(100, lambda _, value: len(value))
    recent.put(1, "x" * 51)
    assert recent.get(1) is None
