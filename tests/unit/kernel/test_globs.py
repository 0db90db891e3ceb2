"""Globs, against the regular expressions of the standard library, and what they cost."""

from __future__ import annotations

import fnmatch
import time
from itertools import product

import pytest
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


GLOBS = st.text("ab*?", max_size=8)


@given(GLOBS, GLOBS, st.lists(KEYS, max_size=20))
def test_what_covers_another_fits_all_that_fits_that(
    glob: str, other: str, keys: list[str]
) -> None:
    if globs.covers(glob, other):
        fitting = [key for key in [*keys, *_texts(other)] if globs.match(frozenset([other]), key)]
        assert [key for key in fitting if not globs.match(frozenset([glob]), key)] == []


@given(GLOBS)
def test_a_glob_covers_itself_and_all_is_covered_by_a_star(glob: str) -> None:
    assert globs.covers(glob, glob)
    assert globs.covers("*", glob)
    assert globs.covers(glob, "*") == (glob != "" and set(glob) == {"*"})


@pytest.mark.parametrize(
    ("glob", "other", "covered"),
    [
        ("a*", "a", True),
        ("a*", "ab*", True),
        ("ab*", "a*", False),
        ("a?", "a*", False),
        ("a*", "a?", True),
        ("?*", "*?", True),
        ("*?", "?*", True),
        ("**", "*", True),
        ("*b*", "ab?b", True),
        ("*b*", "a*a", False),
        ("a\\*", "a*", False),
        ("a*", "a\\*", True),
        ("a?", "a\\?", True),
        ("a\\?", "a?", False),
    ],
)
def test_containment(glob: str, other: str, covered: bool) -> None:
    assert globs.covers(glob, other) is covered


@given(GLOBS, GLOBS)
def test_globs_overlap_if_a_text_fits_both(glob: str, other: str) -> None:
    texts = [*_texts(glob), *_texts(other), *_every(6)]
    both = [t for t in texts if all(globs.match(frozenset([g]), t) for g in (glob, other))]
    assert globs.overlap(glob, other) == globs.overlap(other, glob)
    if both:
        assert globs.overlap(glob, other)
    elif len(glob) + len(other) <= 6:  # A shortest text that fits both is no longer than that.
        assert not globs.overlap(glob, other)


@given(GLOBS, GLOBS, st.lists(KEYS, max_size=20))
def test_an_intersection_has_nothing_that_does_not_fit_both(
    glob: str, other: str, keys: list[str]
) -> None:
    common = globs.intersect(glob, other)
    for key in [*keys, *_texts(glob), *_texts(other), *_every(4)]:
        both = all(globs.match(frozenset([each]), key) for each in (glob, other))
        within = globs.match(common, key)
        assert both or not within
        if glob in ("a*", "ab*", "*"):
            assert within == both


@given(st.sampled_from(["a*", "ab*", "ba*"]), GLOBS, st.lists(KEYS, max_size=20))
def test_the_intersection_with_a_beginning_is_all_that_fits_both(
    beginning: str, other: str, keys: list[str]
) -> None:
    common = globs.intersect(beginning, other)
    for key in [*keys, *_texts(other), *_every(5)]:
        both = all(globs.match(frozenset([each]), key) for each in (beginning, other))
        assert globs.match(common, key) == both


@given(st.text("a*?\\", max_size=8), st.text("a*?\\", max_size=8), st.text("a*?\\", max_size=8))
def test_what_is_escaped_is_compared_as_what_it_stands_for(glob: str, other: str, key: str) -> None:
    fits = [globs.match(frozenset([each]), key) for each in (glob, other)]
    if globs.covers(glob, other) and fits[1]:
        assert fits[0]
    if all(fits):
        assert globs.overlap(glob, other)
    if globs.match(globs.intersect(glob, other), key):
        assert all(fits)


def test_the_longest_globs_are_compared_in_a_bounded_time() -> None:
    for part in ("*a", "*a?", "?a*", "*?", "a"):
        some = [(part * 512)[:508] + f"b{n:02}" for n in range(32)]
        others = [(part * 512)[:508] + f"c{n:02}" for n in range(32)]
        for compare in (globs.covers, globs.overlap):
            start = time.thread_time()
            for glob, other in zip(some, others, strict=True):
                compare(glob, other)
            assert time.thread_time() - start < 0.2, (part, compare)


def _texts(glob: str) -> list[str]:
    """Some texts that fit a glob without escapes."""
    return [
        glob.replace("*", star).replace("?", single)
        for star in ("", "a", "ba")
        for single in ("a", "b")
    ]


def _every(length: int) -> list[str]:
    """Every text of two letters up to a length."""
    return ["".join(each) for n in range(length + 1) for each in product("ab", repeat=n)]
