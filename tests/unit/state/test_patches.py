"""Patches, applied by another implementation than the one that made them."""

from __future__ import annotations

import json
import random
import time
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from contex_server.kernel.model import Erasure
from contex_server.state.patch import Patch, PatchOmitted, json_patch, patch
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.state.applying import apply, as_values, exact, patched
from tests.unit.state.values import DOCUMENTS, event


@given(DOCUMENTS, DOCUMENTS)
def test_a_patch_leads_from_one_document_to_the_other(before: Any, after: Any) -> None:
    one, other = json.dumps(before).encode(), json.dumps(after).encode()
    operations = exact(json_patch(one, other))
    assert as_values(apply(exact(one), operations)) == as_values(exact(other))


@given(DOCUMENTS, st.data())
def test_a_small_change_is_a_small_patch(document: Any, data: st.DataObject) -> None:
    changed = {"same": document, "list": [document, 1, document], "n": data.draw(st.integers())}
    before = changed | {"n": "old"}
    operations = exact(json_patch(json.dumps(before).encode(), json.dumps(changed).encode()))
    assert operations == [{"op": "replace", "path": "/n", "value": changed["n"]}]
    assert exact(json_patch(json.dumps(before).encode(), json.dumps(before).encode())) == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("1", "1.0", '[{"op":"replace","path":"","value":1.0}]'),
        ("1", "true", '[{"op":"replace","path":"","value":true}]'),
        ('{"a":[0]}', '{"a":[false]}', '[{"op":"replace","path":"/a/0","value":false}]'),
        ('{"a":1}', '{ "a" : 1 }', "[]"),
        ('{"a":1,"b":2}', '{"b":2,"a":1}', "[]"),
        ("[1,2,3]", "[0,1,2,3]", '[{"op":"add","path":"/0","value":0}]'),
        ("[1,2,3,4]", "[1,4]", '[{"op":"remove","path":"/2"},{"op":"remove","path":"/1"}]'),
        ('{"a/b~":1}', "{}", '[{"op":"remove","path":"/a~1b~0"}]'),
        ('{"":1}', '{"":2}', '[{"op":"replace","path":"/","value":2}]'),
        (
            '{"n":18446744073709551616,"m":1.10}',
            '{"n":18446744073709551617,"m":1.10}',
            '[{"op":"replace","path":"/n","value":18446744073709551617}]',
        ),
        (
            '{"n":0.1234567890123456789}',
            '{"n":0.1234567890123456788}',
            '[{"op":"replace","path":"/n","value":0.1234567890123456788}]',
        ),
        ('{"n":1e400}', '{"n":2e400}', '[{"op":"replace","path":"/n","value":2e400}]'),
        ('{"a":null}', "{}", '[{"op":"remove","path":"/a"}]'),
        ("{}", '{"a":null}', '[{"op":"add","path":"/a","value":null}]'),
    ],
)
def test_patches_of_json(before: str, after: str, expected: str) -> None:
    assert json_patch(before.encode(), after.encode()) == expected


@pytest.mark.parametrize("depth", [200, 600, 1_000])
def test_what_nests_deep_is_replaced_as_a_whole(depth: int) -> None:
    one = "[" * depth + "1" + "]" * depth
    other = "[" * depth + "2" + "]" * depth
    operations = json_patch(one.encode(), other.encode())
    assert operations == f'[{{"op":"replace","path":"","value":{other}}}]' or depth == 200
    assert operations.count("[") >= 1


def test_a_patch_is_not_much_longer_than_what_it_leads_to() -> None:
    draw = random.Random(1)
    one = json.dumps({f"name {i}": draw.random() for i in range(2_000)}).encode()
    other = json.dumps({f"name {i}": draw.random() for i in range(2_000)}).encode()
    assert len(json_patch(one, other)) < len(other) + 100


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (event(b"{}"), event(b"{}"), Patch()),
        (event(b"a", "text/plain"), event(b"a", "text/plain"), Patch()),
        (
            event(b"\xff", "image/png"),
            event(b"\xfe", "image/png"),
            Patch(omitted=PatchOmitted.BINARY),
        ),
        (event(b"1"), event(b"\xff", "image/png"), Patch(omitted=PatchOmitted.BINARY)),
        (
            replace(event(b""), erased=Erasure(1, "r", "asked for")),
            event(b"1"),
            Patch(omitted=PatchOmitted.ERASED),
        ),
        (
            event(b"1"),
            event(b'"' + b"x" * 256 * 1024 + b'"'),
            Patch(omitted=PatchOmitted.TOO_LARGE),
        ),
        (
            event(b"1"),
            event(b"a\n", "text/plain"),
            Patch(unified_diff="@@ -1 +1 @@\n-1\n\\ No newline at end of file\n+a\n"),
        ),
        (
            event("é\n".encode("latin-1"), "text/plain; charset=latin-1"),
            event("è\n".encode(), "text/plain"),
            Patch(unified_diff="@@ -1 +1 @@\n-é\n+è\n"),
        ),
        # A publisher's own type need not be what its content type says.
        (
            event(b"not json", event_type="note"),
            event(b"nor this", event_type="note"),
            Patch(
                unified_diff="@@ -1 +1 @@\n-not json\n\\ No newline at end of file\n"
                "+nor this\n\\ No newline at end of file\n"
            ),
        ),
    ],
)
def test_the_form_follows_from_what_is_compared(before: Any, after: Any, expected: Patch) -> None:
    assert patch(before, after) == expected


# -- unified diffs -------------------------------------------------------------------


LINES = st.lists(st.sampled_from(["a", "b", "c", "", "@@ -1 +1 @@", "\\ no", "d\r"]), max_size=40)
TEXTS = st.tuples(LINES, st.booleans()).map(lambda t: "\n".join(t[0]) + "\n" * t[1])


@given(TEXTS, TEXTS)
def test_a_diff_leads_from_one_text_to_the_other(before: str, after: str) -> None:
    found = patch(event(before.encode(), "text/plain"), event(after.encode(), "text/plain"))
    assert found.json_patch == ""
    assert patched(before, found.unified_diff) == after


def test_a_diff_keeps_to_what_changed() -> None:
    before = "".join(f"line {i}\n" for i in range(5_000))
    after = before.replace("line 20\n", "line twenty\n").replace("line 4000\n", "")
    found = patch(event(before.encode(), "text/plain"), event(after.encode(), "text/plain"))
    assert found.unified_diff.count("\n") == 8 + 7 + 2
    assert patched(before, found.unified_diff) == after


@pytest.mark.parametrize("words", [1, 2, 50_000])
def test_hostile_texts_are_compared_in_bounded_time(words: int) -> None:
    draw = random.Random(words)
    one, other = ("".join(f"{draw.randrange(words)}\n" for _ in range(30_000)) for _ in range(2))
    started = time.process_time()
    found = patch(event(one.encode(), "text/plain"), event(other.encode(), "text/plain"))
    assert time.process_time() - started < 5
    assert patched(one, found.unified_diff) == other


def test_paths_longer_than_the_document_are_not_collected() -> None:
    name, values = "n" * 100_000, 5_000  # Half a gigabyte of paths.
    before, after = (json.dumps({name: [value] * values}) for value in (1, 2))
    tracemalloc.start()
    operations = json_patch(before.encode(), after.encode())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert operations == f'[{{"op":"replace","path":"","value":{after}}}]'
    assert peak < 8 * 1024 * 1024
