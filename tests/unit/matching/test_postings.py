from __future__ import annotations

import numpy as np
from contex_server.matching.postings import MAX_SLOTS, Postings
from contex_server.matching.terms import Terms
from hypothesis import given
from hypothesis import strategies as st

TEXTS = st.dictionaries(
    st.integers(0, 30), st.dictionaries(st.integers(0, 12), st.integers(1, 255)), max_size=25
)


def terms_of(counts: dict[int, int]) -> Terms:
    ids = sorted(counts)
    return Terms(np.array(ids, np.uint32), np.array([counts[i] for i in ids], np.uint8))


@given(TEXTS, st.sets(st.integers(0, 30)))
def test_occurrences_are_those_of_the_texts_that_are_there(
    texts: dict[int, dict[int, int]], gone: set[int]
) -> None:
    postings = Postings()
    for slot, counts in texts.items():
        postings.add(slot, terms_of(counts))
    for slot in gone & texts.keys():
        postings.remove(slot, terms_of(texts.pop(slot)))
    expected: dict[int, dict[int, int]] = {}
    for slot, counts in texts.items():
        for term, count in counts.items():
            expected.setdefault(term, {})[slot] = count
    assert set(postings.terms()) == expected.keys()
    assert len(postings) == len(expected)
    for term in range(13):
        assert (term in postings) == (term in expected)
        if term in postings:
            slots, counts = postings.get(term)
            assert dict(zip(slots.tolist(), counts.tolist(), strict=True)) == expected[term]
            assert len(slots) == len(expected[term])
    slots, sizes = postings.slots(list(expected))
    assert sizes.tolist() == [len(counts) for counts in expected.values()]
    at = 0
    for counts in expected.values():
        assert set(slots[at : at + len(counts)].tolist()) == counts.keys()
        at += len(counts)
    assert (postings.nbytes > 0) == bool(expected)


def test_the_greatest_slot_and_count() -> None:
    postings = Postings()
    terms = terms_of({2**32 - 1: 255})
    postings.add(MAX_SLOTS - 1, terms)
    slots, counts = postings.get(2**32 - 1)
    assert (slots.tolist(), counts.tolist()) == ([MAX_SLOTS - 1], [255])
    postings.remove(MAX_SLOTS - 1, terms)
    assert not len(postings)
