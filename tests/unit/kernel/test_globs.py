"""Globs, against the regular expressions of the standard library, and what they cost."""

from __future__ import annotations

import fnmatch
import time

from contex_server.kernel import globs
from hypothesis import given
from hypothesis import strategies as st

KEYS = st.text("ab", max_size=12)


@given(st.text("ab*?", max_size=10), KEYS)
def test_stars_and_question_marks_are_those_of_fnmatch(glob: str, key: str) -> None:
    assert globs.match(frozenset([glob]), key) == fnmatch.fnmatchcase(key, glob)


@given(st.text("a*?\\[]^", max_size=12))
def test_what_is_escaped_stands_for_itself(text: str) -> None:
    escaped = "".join(f"\\{character}" for character in text)
    assert globs.match(frozenset([escaped]), text)
    assert globs.match(frozenset([f"b{escaped}*?"]), f"b{text}bb")
    assert not globs.match(frozenset([escaped]), f"{text}b")


def test_one_of_several_is_enough() -> None:
    some = frozenset(["a", "b*", "c?"])
    assert [key for key in ("a", "ax", "bx", "c", "cx") if globs.match(some, key)] == [
        "a",
        "bx",
        "cx",
    ]
    assert not globs.match(frozenset(), "a")


def test_the_worst_globs_hold_the_loop_for_less_than_a_step() -> None:
    for part in ("*a", "*a?", "?a*", "*?"):
        worst = frozenset((part * 256)[:253] + f"b{n}" for n in range(32))
        start = time.thread_time()
        assert not globs.match(worst, "a" * 256)
        assert time.thread_time() - start < 0.020, part
