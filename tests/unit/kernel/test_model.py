from __future__ import annotations

import fnmatch

import pytest
from contex_server.kernel.model import Event, EventFilter, Sequence
from hypothesis import given
from hypothesis import strategies as st

u64 = st.integers(0, 2**64 - 1)
sequences = st.builds(Sequence, u64, u64)


@given(sequences)
def test_a_sequence_survives_its_text(sequence: Sequence) -> None:
    assert Sequence.parse(str(sequence)) == sequence


@given(sequences)
def test_neighbours_are_next_to_each_other(sequence: Sequence) -> None:
    if sequence != (2**64 - 1, 2**64 - 1):
        assert sequence < sequence.next()
        assert sequence.next().prev() == sequence


@pytest.mark.parametrize(
    "text", ["", "-", "1-", "-1", "a", "1-2-3", " 1-2", "1-2\n", "01-2", "1.5", "٣-1", str(2**64)]
)
def test_what_is_no_sequence_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Sequence.parse(text)


def test_nothing_is_before_the_beginning() -> None:
    with pytest.raises(ValueError):
        Sequence(0, 0).prev()


def event(key: str = "", kind: str = "data_published", publisher: str = "") -> Event:
    return Event(Sequence(1, 0), kind, key, b"", "", "", publisher, 1, None, b"")


keys = st.text(alphabet="ab_./", max_size=8)
globs = st.text(alphabet="ab_./*?", min_size=1, max_size=8)


@given(keys, globs)
def test_globs_mean_what_fnmatch_means(key: str, glob: str) -> None:
    passes = EventFilter(data_keys=frozenset([glob])).passes(event(key))
    assert passes == (bool(key) and fnmatch.fnmatchcase(key, glob))


@given(keys, st.lists(globs, min_size=1, max_size=4))
def test_any_of_several_globs_is_enough(key: str, several: list[str]) -> None:
    alone = [EventFilter(data_keys=frozenset([glob])).passes(event(key)) for glob in several]
    assert EventFilter(data_keys=frozenset(several)).passes(event(key)) == any(alone)


def test_a_hostile_glob_is_answered_at_once() -> None:
    assert not EventFilter(data_keys=frozenset(["*a" * 20 + "b"])).passes(event("a" * 40))


def test_every_part_of_a_filter_must_fit() -> None:
    wanted = EventFilter(frozenset(["order"]), frozenset(["a*"]), frozenset(["me"]))
    assert wanted.passes(event("ab", "order", "me"))
    assert not wanted.passes(event("b", "order", "me"))
    assert not wanted.passes(event("ab", "other", "me"))
    assert not wanted.passes(event("ab", "order", "you"))
    assert EventFilter().is_open
    assert EventFilter().passes(event())
