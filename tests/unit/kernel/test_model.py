from __future__ import annotations

import fnmatch
from dataclasses import replace

import pytest
from contex_server.kernel.model import Event, EventFilter, Range, Sequence
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


@given(st.lists(st.integers(1, 50), unique=True), st.integers(0, 50), st.integers(0, 50))
def test_what_is_left_of_a_range_is_what_was_not_read(
    places: list[int], after: int, until: int
) -> None:
    for backwards in (False, True):
        span = Range(Sequence(0, after), Sequence(0, until), backwards)
        read = []
        for n in sorted(places, reverse=backwards):
            if span.after < Sequence(0, n) <= span.until:
                assert not span.is_empty
                read.append(n)
                span = span.rest(Sequence(0, n))
        assert sorted(read) == sorted(n for n in places if after < n <= until)


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


TYPES = ["data_published", "data_deleted", "agent_registered", "match_feedback", "order", "order.a"]
annotations = st.dictionaries(st.sampled_from("ab"), st.sampled_from("12"))


@given(
    st.sampled_from(TYPES),
    annotations,
    st.sampled_from(["", "k", "ka"]),
    st.frozensets(st.sampled_from(TYPES), max_size=2),
    st.frozensets(st.sampled_from(["order", "order.", "data_", "x"]), max_size=2),
    annotations,
    st.booleans(),
    st.frozensets(st.sampled_from(["k*", "ka"]), max_size=1),
)
def test_a_filter_passes_what_each_of_its_parts_passes(
    kind: str,
    metadata: dict[str, str],
    key: str,
    types: frozenset[str],
    prefixes: frozenset[str],
    required: dict[str, str],
    without_service: bool,
    globs: frozenset[str],
) -> None:
    wanted = EventFilter(
        event_types=types,
        data_keys=globs,
        type_prefixes=tuple(sorted(prefixes)),
        metadata=frozenset(required.items()),
        without_service=without_service,
    )
    typed = not types and not prefixes
    typed = typed or kind in types or any(kind[: len(p)] == p for p in prefixes)
    annotated = all(metadata.get(name) == value for name, value in required.items())
    named = not globs or any(fnmatch.fnmatchcase(key, glob) for glob in globs)
    served = without_service and kind in ("agent_registered", "match_feedback")
    passes = wanted.passes(replace(event(key, kind), metadata=metadata))
    assert passes == (typed and annotated and named and not served)
    assert passes or not wanted.is_open
    assert wanted.is_open == (wanted == EventFilter())


def test_the_fingerprint_of_a_filter_without_new_parts_is_what_it_was() -> None:
    wanted = EventFilter(frozenset("ba"), frozenset("k"), frozenset())
    assert wanted.fingerprint() == (["a", "b"], ["k"], [])
    others = [
        EventFilter(type_prefixes=("a",)),
        EventFilter(metadata=frozenset({("a", "1")})),
        EventFilter(without_service=True),
        EventFilter(),
    ]
    assert len({repr(other.fingerprint()) for other in others}) == 4
