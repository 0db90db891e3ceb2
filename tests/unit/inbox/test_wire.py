"""What an agent is told, joined out of an inbox's entry, is what messages made of it say."""

from __future__ import annotations

from contex.v1 import event_pb2
from contex_server.api.match.messages import match_message
from contex_server.inbox import wire
from contex_server.inbox.entry import Decision, Version, decode, encode, read
from contex_server.kernel.model import Change, Match, Sequence
from contex_server.matching.describe import describe
from contex_server.matching.filter_index import exact_match_of
from hypothesis import given
from hypothesis import strategies as st

AT = Sequence(1_700_000_000_000, 3)
TEXTS = {"00ff10ab": "how orders fare", "ffffffff": "Zustand ✓ " * 60}
VERSIONS = {
    1: Version("model@1", "scorer", "5-0", 70_000, 0.05),
    300: Version("", "", "0-0", 0, 0.0),
}
DESCRIPTION = describe(
    "orders", "All orders", b'{"servers": [{"name": "a"}, {"name": "b"}]}', "application/json"
)
shares, cosines = st.floats(0, 1), st.floats(-1, 1)
need_ids = st.sampled_from([*TEXTS, "12345678"])
indexes = st.integers(0, 255)


@st.composite
def worded(draw: st.DrawFn, relative: bool) -> Match:
    numbers = {
        "score": draw(shares),
        "passage": draw(st.integers(0, 40)),
        "threshold": draw(shares),
        "standing": draw(st.floats(-70_000, 70_000)),
        "lexical": draw(st.floats(0, 9)) if relative else 0.0,
        "share": draw(st.floats(-9, -1)) if relative else 0.0,
        **{name: draw(cosines) for name in ("cosine", "mean", "usual")},
        **{name: draw(shares) for name in ("deviation", "coverage", "expected")},
    }
    rest = {"need_index": draw(indexes), "need": "", "need_id": draw(need_ids)}
    return Match(model="", scorer="", background_passages=0, **numbers, **rest)  # type: ignore[arg-type]


filters = st.builds(exact_match_of, indexes, st.just(""), need_ids)
several = st.booleans().flatmap(lambda relative: st.lists(worded(relative), max_size=3))


@given(
    st.lists(filters, max_size=3),
    several,
    st.sampled_from(Change),
    st.integers(0, 2**31),
    st.sampled_from([0, *VERSIONS]),
    st.booleans(),
    st.booleans(),
)
def test_bytes_say_the_same(
    exact: list[Match],
    words: list[Match],
    change: Change,
    revision: int,
    version: int,
    another: bool,
    omitted: bool,
) -> None:
    decision = Decision(change, AT, revision, "kälte/1", (*exact, *words), version)
    at = AT.next() if another else AT
    head = read(encode(decision, at), at)
    again = decode(head, TEXTS, VERSIONS)
    assert (again.change, again.event, again.revision) == (change, AT, revision)
    assert (again.data_key, again.version) == ("kälte/1", version)
    quotes = {m.passage: wire.quote(DESCRIPTION, m.passage) for m in again.matches if not m.exact}
    teller = wire.Teller(TEXTS, VERSIONS)
    told = teller.told(head, {} if omitted else quotes, omitted=omitted)
    assert teller.told(head, {} if omitted else quotes, omitted=omitted) == told
    message = event_pb2.MatchedEvent.FromString(told)
    expected = []
    for match in again.matches:
        if not match.exact and not omitted:
            quoted = DESCRIPTION.quoted(match.passage)
            match = match._replace(path=quoted.path, passage_text=quoted.text)
        expected.append(match_message(match))
    assert list(message.matches) == expected
    assert (message.kind, message.payload_omitted) == (int(change), omitted)
    assert not message.HasField("event")
