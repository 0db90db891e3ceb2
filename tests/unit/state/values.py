"""What the tests of projections are made of."""

from __future__ import annotations

import string

from contex_server.kernel.model import Event, KeyState, Sequence
from hypothesis import strategies as st

KEYS = st.text("abc/.?*"[:5], min_size=1, max_size=4)
SEQUENCES = st.builds(Sequence, st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1))


def states(keys: st.SearchStrategy[str] = KEYS) -> st.SearchStrategy[dict[str, KeyState]]:
    """States of keys, as a fold leaves them."""
    values = st.tuples(
        st.integers(1, 2**53),
        SEQUENCES,
        st.booleans(),
        st.one_of(st.just(b""), st.binary(min_size=16, max_size=16)),
    )
    return st.dictionaries(keys, values, max_size=12).map(
        lambda found: {key: KeyState(key, *value) for key, value in found.items()}
    )


def event(
    payload: bytes,
    content_type: str = "",
    *,
    revision: int = 1,
    publisher: str = "",
    event_type: str = "data_published",
) -> Event:
    """An event of a key, at a sequence that follows from its revision."""
    return Event(
        sequence=Sequence(1_000 + revision, 0),
        event_type=event_type,
        data_key="k",
        payload=payload,
        content_type=content_type,
        description="",
        publisher=publisher,
        revision=revision,
        previous_sequence=Sequence(999 + revision, 0) if revision > 1 else None,
        text_digest=b"",
    )


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.integers(-(10**25), 10**25),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, 1.0, 2.0, 0.1, 1e300]),
    st.text(string.ascii_lowercase + "/~ é😀", max_size=3),
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.sampled_from(["a", "b", "c/d", "e~f", "", "~1"]), inner, max_size=4),
    ),
    max_leaves=12,
)
