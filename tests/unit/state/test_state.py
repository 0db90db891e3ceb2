"""States in columns, with what changed over them, against plain dictionaries."""

from __future__ import annotations

import fnmatch

import pytest
from contex_server.kernel.model import BEGINNING, KeyState, Sequence
from contex_server.state.snapshot import EMPTY, SnapshotDamaged, decode_snapshot, encode_snapshot
from contex_server.state.state import Selection, State, changed_keys
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.state.values import KEYS, SEQUENCES, states

PATTERNS = st.lists(st.text("abc/.*?", min_size=1, max_size=4), max_size=3).map(frozenset)
SELECTIONS = st.builds(
    Selection, PATTERNS, st.text("abc/.", max_size=2), include_deleted=st.booleans()
)


@given(states())
def test_a_snapshot_is_read_back_as_it_was(state: dict[str, KeyState]) -> None:
    snapshot = decode_snapshot(encode_snapshot(state))
    assert snapshot.keys == sorted(state)
    assert {key: snapshot.get(key) for key in snapshot.keys} == state
    assert snapshot.deleted == {key for key, s in state.items() if s.deleted}
    assert snapshot.get("nobody") is None
    assert len(snapshot) == len(state)


@given(states(), st.data())
def test_a_damaged_snapshot_is_never_taken_for_another(
    state: dict[str, KeyState], data: st.DataObject
) -> None:
    whole = bytearray(encode_snapshot(state))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        read = decode_snapshot(bytes(whole))
    except SnapshotDamaged:
        return
    assert {key: read.get(key) for key in read.keys} == state


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x02abc", b"\x01" + bytes(40)])
def test_what_is_no_snapshot_is_refused(data: bytes) -> None:
    with pytest.raises(SnapshotDamaged):
        decode_snapshot(data)


def test_many_keys_take_little() -> None:
    state = {
        f"service/{i:05}": KeyState(
            f"service/{i:05}", i % 50 + 1, Sequence(1_764_000_000_000 + 37 * i, 0), False, b""
        )
        for i in range(10_000)
    }
    assert len(encode_snapshot(state)) < 10 * len(state)


def plainly(state: dict[str, KeyState], wanted: Selection) -> list[str]:
    """The keys that a selection selects, by its words."""
    return sorted(
        key
        for key, latest in state.items()
        if key.startswith(wanted.prefix)
        and (
            not wanted.data_keys or any(fnmatch.fnmatchcase(key, glob) for glob in wanted.data_keys)
        )
        and (wanted.include_deleted or not latest.deleted)
    )


@given(states(), states(), SELECTIONS, KEYS)
def test_keys_are_selected_in_order(
    base: dict[str, KeyState], changes: dict[str, KeyState], wanted: Selection, after: str
) -> None:
    state = State(BEGINNING, decode_snapshot(encode_snapshot(base)), changes)
    whole = base | changes
    expected = plainly(whole, wanted)
    assert list(state.select(wanted)) == expected
    assert list(state.select(wanted, after)) == [key for key in expected if key > after]
    assert state.count(wanted) == len(expected)
    assert len(state) == len(whole)
    assert {key: state.get(key) for key in whole} == whole
    assert [s.data_key for s in state.all()] == plainly(whole, Selection())


@given(states(), states(), states(), st.booleans(), SELECTIONS)
def test_what_differs_is_what_differs_key_by_key(
    base: dict[str, KeyState],
    earlier: dict[str, KeyState],
    later: dict[str, KeyState],
    shared: bool,
    wanted: Selection,
) -> None:
    snapshot = decode_snapshot(encode_snapshot(base))
    one = State(BEGINNING, snapshot, earlier)
    moved = base if shared else base | later
    other = State(BEGINNING, snapshot if shared else decode_snapshot(encode_snapshot(moved)), later)
    was, is_now = base | earlier, moved | later
    expected = []
    for key in sorted(was.keys() | is_now.keys()):
        a, b = was.get(key), is_now.get(key)
        a = None if a is None or a.deleted else a
        b = None if b is None or b.deleted else b
        different = (a and a.sequence) != (b and b.sequence)
        if different and wanted.admits(key):
            expected.append(key)
    assert changed_keys(one, other, wanted) == expected
    assert changed_keys(one, one, wanted) == []


def test_two_events_of_one_millisecond_differ() -> None:
    one, other = (
        State(
            Sequence(1, n),
            decode_snapshot(encode_snapshot({"a": KeyState("a", n, Sequence(1, n), False, b"")})),
        )
        for n in (1, 2)
    )
    assert changed_keys(one, other, Selection()) == ["a"]


@given(SEQUENCES)
def test_the_empty_state_has_nothing(sequence: Sequence) -> None:
    state = State(sequence)
    assert (len(state), state.get("a"), list(state.all())) == (0, None, [])
    assert decode_snapshot(encode_snapshot({})) is EMPTY
