"""A project whose data are all of one kind: every one of them answers, and costs what it must."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from contex_server.kernel.model import Need
from contex_server.matching import data_index
from contex_server.matching.background import shipped_prior
from contex_server.matching.encoding import Encoding
from contex_server.matching.rules import AbsoluteRule
from contex_server.matching.terms import terms_of

_DATA = 1_500


def test_a_search_copies_few_vectors_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_index, "_SLOTS_PER_STEP", 64)
    data = AbsoluteRule("test#2", shipped_prior()).data()
    vector = np.full((1, data.dimension), data.dimension**-0.5, np.float32)
    terms = (terms_of([("orders shipped", 1)]),)
    for number in range(_DATA):
        data.put(f"order-{number}", number.to_bytes(16), Encoding(vector, terms))
    bytes_before = data.nbytes
    need = Need("orders shipped", b"", 0.01, _DATA)
    tracemalloc.start()
    found = data.search([need], [Encoding(vector, terms)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == _DATA
    # Less than each vector once; with all of them at a time, each is copied five times over.
    each_once = _DATA * data.dimension * 4
    assert peak - _DATA * 1_000 < each_once
    for number in range(_DATA):
        data.remove(f"order-{number}")
    assert data.nbytes < bytes_before / 5
