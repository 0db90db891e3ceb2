"""Names of any printable text, and globs over them."""

from __future__ import annotations

import contex
import pytest
from contex_server.api.shared.fields import key_glob
from contex_server.kernel import globs
from contex_server.kernel.errors import ContexError
from contex_server.kernel.names import DATA_KEY, EVENT_TYPE, PUBLISHER
from hypothesis import given
from hypothesis import strategies as st

from tests.printable import printable_names


@pytest.mark.parametrize(
    "name",
    [
        *("PDF&URL Tool", "Größen/übersicht", "価格/東京", "سعر الشحن", "नमस्ते", "a  b", "a\u3000b"),
        *(
            "*",
            "?",
            "[a-z]",
            "a\\b",
            "'; DROP TABLE",
            "{a}",
            "<b>",
            'a,b"c',
            "\U0001f9d1\u200d\U0001f373",
        ),
        *("e\u0301", "\u00e9", "x" * 256, "\U0001f600" * 256, "-", "%41", "\ue000"),
    ],
)
def test_what_a_data_key_may_be(name: str) -> None:
    assert DATA_KEY(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", " a", "a ", "a\xa0", "\u3000a", "\u200d", "a\u200c"),
        *("a\nb", "a\n", "a\tb", "a\0", "a\x7fb", "a\x85b", "a\u2028b", "a\u2029b", "a\x1b[2Jb"),
        *("a\u202eb", "a\u2066b", "a\u200bb", "a\ufeffb", "a\xadb", "a\uffff", "\U0010ffff"),
        *("a\ufdd0", "a\U000e0061", "a\ud800", "x" * 257),
    ],
)
def test_what_a_data_key_may_not_be(name: str) -> None:
    with pytest.raises(ContexError, match="data_key: must be 1 to 256 printable characters") as no:
        DATA_KEY(name)
    assert no.value.field == "data_key"


def test_the_other_names() -> None:
    for check, low, high in ((EVENT_TYPE, 1, 64), (PUBLISHER, 0, 128)):
        assert check.fits("") is (low == 0)
        assert check("x" * high) == "x" * high
        assert not check.fits("x" * (high + 1))
        assert not check.fits(" x")


@given(printable_names(256))
def test_generated_names_are_names(name: str) -> None:
    assert DATA_KEY.fits(name)


@pytest.mark.parametrize(
    ("glob", "key", "fits"),
    [
        ("a*", "abc", True),
        (r"a\*", "abc", False),
        (r"a\*", "a*", True),
        ("a*", "a*", True),
        ("[a]", "[a]", True),
        ("[a]", "a", False),
        ("[!a]", "b", False),
        ("a]b[", "a]b[", True),
        (r"a\\b", "a\\b", True),
        (r"a\\*", "a\\bc", True),
        ("?", "東", True),
        (r"\?", "?", True),
        (r"\?", "x", False),
        (r"\a", "a", True),
        ("*.*", "x.y", True),
        ("A", "a", False),
    ],
)
def test_globs(glob: str, key: str, fits: bool) -> None:
    assert key_glob(glob) == glob
    assert globs.match(frozenset({glob}), key) is fits
    assert globs.match(frozenset({glob, "nothing else"}), key) is fits


@pytest.mark.parametrize("glob", ["", "\\", "a\\", "\\\\\\", "a\nb", "\\\n", "x" * 513])
def test_what_is_no_glob(glob: str) -> None:
    with pytest.raises(ContexError, match="data_keys: must be 1 to 512 printable characters"):
        key_glob(glob)


@given(printable_names(256), printable_names(8))
def test_an_escaped_key_is_a_glob_that_only_the_key_fits(key: str, other: str) -> None:
    glob = contex.escape_glob(key)
    assert key_glob(glob) == glob
    assert globs.match(frozenset({glob}), key)
    assert globs.literal(glob) == key
    assert globs.match(frozenset({glob}), other) is (other == key)


@given(st.text("a*?\\[]", min_size=1, max_size=12), st.text("a*?\\[]", max_size=12))
def test_what_fits_begins_with_the_literal(glob: str, key: str) -> None:
    if key_glob.fits(glob) and globs.match(frozenset({glob}), key):
        assert key.startswith(globs.literal(glob))
