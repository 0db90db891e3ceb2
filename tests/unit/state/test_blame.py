"""Who set what, against the definition."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

from contex_server.api.state.messages import part_messages
from contex_server.kernel.model import DATA_DELETED, Event
from contex_server.state.blame import BlamedPart, blame
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.state.values import DOCUMENTS, event


def blamed(events: list[Event]) -> list[BlamedPart]:
    """All of a key's events, oldest first, as the walk sees them."""
    newest, *older = reversed(events)
    found = blame(newest)
    for before in older:
        found.add(before)
    return list(found.parts())


def history(*payloads: Any, content_type: str = "") -> list[Event]:
    """Events with these payloads; None deletes."""
    return [
        event(b"", revision=n, publisher=f"p{n}", event_type=DATA_DELETED)
        if payload is None
        else event(
            payload if isinstance(payload, bytes) else json.dumps(payload).encode(),
            content_type,
            revision=n,
            publisher=f"p{n}",
        )
        for n, payload in enumerate(payloads, 1)
    ]


def set_by(events: list[Event]) -> dict[str, int]:
    return {part.path: part.event.revision for part in blamed(events)}


def test_each_value_is_of_the_event_that_set_it_last() -> None:
    events = history(
        {"timeout": 30, "hosts": ["a", "b"], "note": "x"},
        {"timeout": 60, "hosts": ["a", "b"], "note": "x"},
        {"timeout": 60, "hosts": ["a", "c"], "note": "x", "empty": {}},
        {"timeout": 30, "hosts": ["a", "c"], "note": "x", "empty": {}},
    )
    assert set_by(events) == {"/timeout": 4, "/hosts/0": 1, "/hosts/1": 3, "/note": 1, "/empty": 3}
    assert [part.value for part in blamed(events)] == ["30", '"a"', '"c"', '"x"', "{}"]


def test_one_and_one_point_naught_and_true_are_not_the_same() -> None:
    assert set_by(history({"a": 1}, {"a": 1.0}, {"a": 1.0})) == {"/a": 2}
    assert set_by(history({"a": 1}, {"a": True})) == {"/a": 2}
    assert set_by(history({"a": 10**30}, {"a": 10**30 + 1}, {"a": 10**30 + 1})) == {"/a": 2}


def test_a_return_sets_everything_anew() -> None:
    assert set_by(history({"a": 1}, None, {"a": 1}, {"a": 1, "b": 2})) == {"/a": 3, "/b": 4}


def test_another_format_sets_everything_anew() -> None:
    events = [event(b"1\n", "text/plain", revision=1), event(b"1", revision=2)]
    assert set_by(events) == {"": 2}
    assert set_by(events[::-1][:1]) == {"": 2}


def test_a_scalar_is_one_part_and_pointers_are_escaped() -> None:
    assert set_by(history(1, 1, 2)) == {"": 3}
    assert set_by(history({"a/b": {"c~d": [[]]}})) == {"/a~1b/c~0d/0": 1}


def test_lines_keep_their_event_while_others_come_and_go() -> None:
    events = history(
        b"one\ntwo\nthree\n",
        b"zero\none\ntwo\nthree\n",
        b"zero\none\n2\nthree\nfour",
        content_type="text/plain",
    )
    assert [(p.path, p.value, p.event.revision) for p in blamed(events)] == [
        ("1", "zero", 2),
        ("2", "one", 1),
        ("3", "2", 3),
        ("4", "three", 1),
        ("5", "four", 3),
    ]


def test_what_is_no_text_is_one_part() -> None:
    events = history(b"\xff", b"\xfe", b"\xfe", content_type="image/png")
    assert [(p.path, p.value, p.event.revision) for p in blamed(events)] == [("", "", 2)]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    if isinstance(value, dict) and value:
        return {k: v for n, c in value.items() for k, v in leaves(c, (*path, n)).items()}
    if isinstance(value, list) and value:
        return {k: v for i, c in enumerate(value) for k, v in leaves(c, (*path, i)).items()}
    return {path: (type(value).__name__, value)}


@given(st.lists(st.one_of(st.none(), DOCUMENTS), min_size=1, max_size=8), DOCUMENTS)
def test_values_are_blamed_as_defined(documents: list[Any], last: Any) -> None:
    events = history(*documents, last)
    trees: list[dict[Any, Any]] = [
        {} if e.event_type == DATA_DELETED else leaves(json.loads(e.payload)) for e in events
    ]
    expected = []
    for path, value in trees[-1].items():
        first = len(trees)
        while first > 1 and trees[first - 2].get(path) == value:
            first -= 1
        expected.append(first)
    assert [part.event.revision for part in blamed(events)] == expected


TEXT = st.lists(st.sampled_from("abcd"), max_size=8).map(lambda ls: "".join(f"{x}\n" for x in ls))


@given(st.lists(TEXT, min_size=1, max_size=6))
def test_lines_are_blamed_on_an_event_that_has_them(texts: list[str]) -> None:
    events = history(*(text.encode() for text in texts), content_type="text/plain")
    parts = blamed(events)
    assert [part.value for part in parts] == texts[-1].split("\n")[:-1]
    for part in parts:
        since = part.event.revision - 1
        for text in texts[since:]:
            assert part.value in text.split("\n")


def test_the_walk_may_stop_when_nothing_is_open() -> None:
    newest, older, *_ = reversed(history({"a": 1}, {"a": 2}, {"a": 3}))
    found = blame(newest)
    assert found.open == 1
    found.add(older)
    assert found.open == 0


def test_a_datum_of_very_many_parts_tells_the_first() -> None:
    found = blame(event(json.dumps(list(range(20_000))).encode()))
    assert not found.complete
    assert [part.path for part in found.parts()][-1] == "/9999"


def test_paths_are_written_only_as_far_as_they_are_sent() -> None:
    name, values = "n" * 100_000, 5_000  # Half a gigabyte of paths.
    (only,) = history({name: list(range(values))})
    tracemalloc.start()
    parts, whole = part_messages(blame(only).parts(), max_bytes=1024 * 1024)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [part.path[-2:] for part in parts] == [f"/{n}" for n in range(len(parts))]
    assert not whole
    assert peak < 8 * 1024 * 1024
