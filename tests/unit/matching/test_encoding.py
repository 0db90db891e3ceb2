from __future__ import annotations

import numpy as np
import pytest
from contex_server.matching.describe import describe
from contex_server.matching.embedders.port import unit
from contex_server.matching.encoding import (
    BRIEF_SHARE,
    Encoding,
    as_stored,
    description_recipe,
    need_recipe,
    pack,
    unpack,
)
from contex_server.matching.terms import NO_TERMS, Terms, terms_of
from hypothesis import given
from hypothesis import strategies as st

TERMS = st.lists(st.integers(0, 2**32 - 1), unique=True, max_size=40).map(
    lambda ids: Terms(
        np.array(sorted(ids), np.uint32),
        (np.array(sorted(ids), np.int64) % 255 + 1).astype(np.uint8),
    )
)


@st.composite
def encodings(draw: st.DrawFn) -> Encoding:
    shape = draw(st.integers(1, 5)), draw(st.integers(1, 24))
    rows = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(size=shape)
    terms = draw(st.lists(TERMS, min_size=shape[0], max_size=shape[0]))
    return Encoding(unit(rows.astype(np.float32)), tuple(terms))


@given(encodings())
def test_what_is_stored_comes_back(encoding: Encoding) -> None:
    stored = as_stored(encoding)
    assert stored.vectors.dtype == np.float32
    assert np.abs(stored.vectors - encoding.vectors).max() < 1e-3
    assert np.linalg.norm(stored.vectors, axis=1) == pytest.approx(1.0, abs=1e-6)
    for one, other in zip(stored.terms, encoding.terms, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert one.counts.tolist() == other.counts.tolist()


def test_cosines_of_stored_vectors_are_nearly_the_same() -> None:
    rows = unit(np.random.default_rng(0).normal(size=(50, 384)).astype(np.float32))
    stored = as_stored(Encoding(rows, (NO_TERMS,) * 50)).vectors
    assert np.abs(stored @ stored.T - rows @ rows.T).max() < 1e-4
    assert pack(Encoding(stored, (NO_TERMS,) * 50)) == pack(Encoding(rows, (NO_TERMS,) * 50))
    packed = pack(Encoding(rows[:1], (terms_of([("one two", 1)]),)))
    assert len(packed) == 6 + 768 + 2 + 3 * 5


@given(encodings(), st.data())
def test_broken_bytes_are_refused(encoding: Encoding, data: st.DataObject) -> None:
    packed = pack(encoding)
    with pytest.raises(ValueError):
        unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])
    with pytest.raises(ValueError):
        unpack(packed + b"\0")
    with pytest.raises(ValueError):
        unpack(b"\x07" + packed[1:])


def test_the_head_is_mixed_with_key_and_description() -> None:
    description = describe("billing/payments", "State of payments", b'{"failing": "cards"}', "")
    recipe = description_recipe(description)
    assert recipe.brief
    assert recipe.texts == (f"{description.title}. {description.summary}", *description.texts)
    vectors = np.eye(2, 3, dtype=np.float32)
    encoding = recipe.encoding(vectors)
    assert encoding.passages == 1
    head = np.array([BRIEF_SHARE, 1 - BRIEF_SHARE, 0])
    assert encoding.vectors[0] == pytest.approx(head / np.linalg.norm(head))


def test_without_an_outline_the_head_is_all_there_is() -> None:
    description = describe("billing/payments", "", b"{}", "")
    recipe = description_recipe(description)
    assert not recipe.brief
    assert recipe.texts == description.texts
    assert recipe.encoding(np.eye(1, 3, dtype=np.float32)).vectors.tolist() == [[1, 0, 0]]


def test_words_of_key_and_description_count_twice() -> None:
    recipe = description_recipe(describe("ledger", "refunds", b'{"chargeback": "x"}', ""))
    (terms,) = recipe.terms
    for word, count in (("ledger", 2), ("refunds", 2), ("chargeback", 1)):
        (wanted,) = terms_of([(word, 1)]).ids
        assert terms.counts[terms.ids == wanted].tolist() == [count]


def test_a_long_payload_has_a_vector_and_terms_for_each_passage() -> None:
    payload = "\n\n".join(f"Section {n}. " + "some words of it " * 40 for n in range(12))
    recipe = description_recipe(describe("manual", "A manual", payload.encode(), "text/plain"))
    passages = len(recipe.terms)
    assert passages > 3
    assert len(recipe.texts) == passages + recipe.brief
    vectors = unit(np.random.default_rng(1).normal(size=(len(recipe.texts), 5)).astype(np.float32))
    encoding = recipe.encoding(vectors)
    assert encoding.vectors.shape == (passages, 5)
    assert encoding.vectors[1:] == pytest.approx(vectors[1 + recipe.brief :], abs=1e-6)


def test_each_word_of_a_need_counts_once() -> None:
    recipe = need_recipe("payments payments failing")
    assert recipe.texts == ("payments payments failing",)
    assert set(recipe.terms[0].counts.tolist()) == {1}
