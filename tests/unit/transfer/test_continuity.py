"""A file's events are a history: against the rule applied to one after the other."""

from __future__ import annotations

import pytest
from contex.v1 import event_pb2
from contex_server.kernel.model import BEGINNING, Entry, Sequence
from contex_server.transfer.continuity import Continuity, ContinuityError
from hypothesis import example, given
from hypothesis import strategies as st

U64 = 2**64 - 1
NUMBERS = st.one_of(st.integers(0, 12), st.integers(0, U64), st.sampled_from([10**18, 10**19, U64]))
IDS = st.builds(lambda ms, n: f"{ms}-{n}".encode(), NUMBERS, NUMBERS)
ODD = st.sampled_from([b"", b"5", b"1-", b"1-2-3", b"-1-2", b"1-x", b" 1-2", b"1-2\n3-4", b"\xff"])


def nothing_yet() -> Continuity:
    """Of no events yet."""
    return Continuity()


def entry(sequence: bytes, key: str = "", revision: int = 0, previous: str = "") -> Entry:
    """An event."""
    message = event_pb2.Event(
        event_type="data_published", data_key=key, revision=revision, previous_sequence=previous
    )
    return Entry(sequence, message.SerializeToString())


def ascend(ids: list[bytes]) -> bool:
    """The rule, one after the other."""
    last = BEGINNING
    for text in ids:
        try:
            sequence = Sequence.parse(text.decode()) if b"-" in text else None
        except ValueError:
            return False
        if sequence is None or sequence <= last or str(sequence).encode() != text:
            return False
        last = sequence
    return True


@given(
    st.one_of(
        st.lists(IDS, min_size=1, max_size=6),
        st.lists(IDS, min_size=1, max_size=6, unique=True).map(
            lambda ids: sorted(ids, key=lambda text: Sequence.parse(text.decode()))
        ),
        st.lists(st.one_of(IDS, ODD), min_size=1, max_size=4),
    )
)
@example([b"1-2-3", b"4"])
@example([b"1-2\n3-4"])
@example([b"9-1", b"10-0"])
@example([b"1-9", b"1-10"])
@example([f"{U64}-{U64}".encode()])
@example([f"{U64 + 1}-0".encode()])
@example([b"0-0"])
@example([b"07-1"])
@pytest.mark.parametrize("before", [0, 7], ids=["few", "many"])
def test_sequences_ascend_or_are_refused(before: int, ids: list[bytes]) -> None:
    ids = [b"0-%d" % n for n in range(1, before + 1)] + ids
    entries = [entry(text) for text in ids]
    one = nothing_yet()
    if ascend(ids):
        one.check_order(entries)
        assert one.last == entries[-1].sequence
    else:
        with pytest.raises(ContinuityError):
            one.check_order(entries)


def test_order_goes_on_from_call_to_call() -> None:
    one = nothing_yet()
    one.check_order([entry(b"5-0"), entry(b"5-1")])
    with pytest.raises(ContinuityError, match="5-1 after 5-1"):
        one.check_order([entry(b"5-1")])


def test_each_event_names_the_one_before_it_of_its_key() -> None:
    one = nothing_yet()
    links = one.check_links([entry(b"1-0", "a", 1), entry(b"1-1"), entry(b"1-2", "a", 2, "1-0")])
    assert [(link.data_key, link.revision) for link in links] == [("a", 1), ("", 0), ("a", 2)]
    for wrong in (entry(b"2-0", "a", 4, "1-2"), entry(b"2-0", "a", 3, "1-0")):
        other = nothing_yet()
        other.add_latest("a", 2, Sequence(1, 2))
        with pytest.raises(ContinuityError, match="with revision"):
            other.check_links([wrong])
    one.check_links([entry(b"2-0", "a", 3, "1-2")])
    with pytest.raises(ContinuityError, match=r"b.* with revision 2"):
        one.check_links([entry(b"3-0", "b", 2, "1-0")])


def test_a_part_of_a_history_has_gaps_but_does_not_go_back() -> None:
    one = nothing_yet()
    one.partial = True
    one.check_links([entry(b"1-0", "a", 7, "0-9"), entry(b"1-1", "a", 9, "1-0")])
    with pytest.raises(ContinuityError, match="with revision 9"):
        one.check_links([entry(b"1-2", "a", 9, "1-1")])


def test_what_is_not_known_is_believed_once() -> None:
    one = nothing_yet()
    one.all_keys_known = False
    one.check_links([entry(b"1-0", "a", 7, "0-9")])
    with pytest.raises(ContinuityError, match="with revision 9"):
        one.check_links([entry(b"1-2", "a", 9, "1-0")])


def test_what_is_no_event_is_refused() -> None:
    with pytest.raises(ContinuityError, match="not an event"):
        nothing_yet().check_links([Entry(b"1-0", b"\xff\xff")])
