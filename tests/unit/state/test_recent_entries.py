"""The entries that a fold keeps for one request."""

from __future__ import annotations

from contex_server.kernel.model import Entry, KeyState, Sequence
from contex_server.state.fold import RecentEntries


def _entry(n: int, size: int) -> Entry:
    return Entry(f"{n}-0".encode(), b"x" * size)


def _state(key: str, n: int) -> KeyState:
    return KeyState(key, 1, Sequence(n, 0), False, b"")


def test_the_latest_entry_of_a_key_is_kept_and_no_other() -> None:
    recent = RecentEntries(100)
    recent.put("a", _entry(1, 60))
    recent.put("a", _entry(2, 70))
    assert recent.get(_state("a", 2)) == _entry(2, 70)
    assert recent.get(_state("a", 1)) is None
    assert recent.get(_state("b", 2)) is None


def test_no_more_is_kept_than_there_is_room_for() -> None:
    recent = RecentEntries(100)
    recent.put("a", _entry(1, 60))
    recent.put("b", _entry(2, 60))
    assert recent.get(_state("b", 2)) is None
    # A key's next entry frees its room, even if it does not fit itself.
    recent.put("a", _entry(3, 200))
    assert recent.get(_state("a", 3)) is None
    recent.put("b", _entry(4, 100))
    assert recent.get(_state("b", 4)) == _entry(4, 100)
