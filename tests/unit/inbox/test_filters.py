"""How a match by a filter is judged, held and stored."""

from __future__ import annotations

from typing import Any

from contex_server.inbox.entry import Decision, Version, decode, encode, read
from contex_server.inbox.holdings import DIGEST_BYTES, Holding, pack_holders, unpack_holders
from contex_server.inbox.judgement import Judgement, Occasion, judge
from contex_server.inbox.subscriber import Subscriber, watched
from contex_server.kernel.model import Agent, Change, Event, EventFilter, Match, Sequence
from contex_server.match.agent_codec import make_need
from contex_server.matching.filter_index import exact_match

AT = Sequence(1_700_000_000_000, 3)
WORDS = make_need("apples", 0.5, 10)
FILTER = make_need("", 0.5, 10, wanted=EventFilter(frozenset({"order.paid"})))
AGENT = Agent("a", (WORDS, FILTER), 0.5, 10, 1, 1)
EXACT = exact_match(FILTER, 1)
TEXT = b"t" * 16
VERSION = Version("model@1", "scorer", "5-0", 7, 0.05)


def scored(score: float = 0.75, **fields: Any) -> Match:
    parts = 0.5, 1.5, 0.0, 0.0, 0.25, 0.125, 0.5, VERSION.model, VERSION.scorer, VERSION.data
    match = Match(0, WORDS.text, score, 2, *parts, Sequence(5, 0), need_id=WORDS.id)
    return match._replace(**fields)


def stored(*matches: Match, change: Change = Change.MATCHED, at: Sequence = AT) -> Decision:
    """A decision as it is read again."""
    decision = Decision(change, AT, 4, "k", matches, 1)
    texts = Subscriber(AGENT, 1, AT, AT).texts
    return decode(read(encode(decision, at), at), texts, {1: VERSION})


def judged(near: list[Match], before: Holding | None = None, **fields: Any) -> Judgement:
    event = {"event_type": "order.paid", "data_key": "k", "revision": 2, "text_digest": TEXT}
    return judge(Occasion(Event(AT, **{**event, **fields})), AGENT, tuple(near), before)


def held(*, exact: bool, text: bytes = TEXT) -> Holding:
    return Holding(1, 1, text[:DIGEST_BYTES], True, exact)


def test_decisions_are_read_again() -> None:
    for at in (AT, Sequence(AT.ms + 1, 0)):
        for matches in ((), (EXACT,), (scored(),), (EXACT, scored()), (EXACT, EXACT)):
            decision = stored(*matches, at=at)
            assert (decision.matches, decision.data_key) == (matches, "k")
            assert (decision.event, decision.revision) == (AT, 4)
    # Filters first, whatever the scores are rounded to; and beside relative scores.
    assert stored(scored(1.0), EXACT).matches == (EXACT, scored(1.0))
    relative = scored(share=-1.5, lexical=0.25)
    assert stored(EXACT, relative).matches == (EXACT, relative)
    assert stored(change=Change.REGISTERED).change is Change.REGISTERED


def test_a_match_by_a_filter_takes_little_room() -> None:
    sizes = [
        len(encode(Decision(Change.MATCHED, AT, 4, "k", matches, 1), AT))
        for matches in ((), (scored(),), (EXACT,))
    ]
    assert sizes[1] == sizes[0] + 29
    assert sizes[2] == sizes[0] + 6


def test_holders_are_read_again() -> None:
    holders = {
        1: Holding(1, 3, b"1234567", True),
        2: Holding(2, 3, b"1234567", True, exact=True),
        3: Holding(2, 3, b"1234567", False),
    }
    assert unpack_holders(pack_holders(holders)) == holders


def test_only_words_have_a_margin() -> None:
    assert [need.threshold for need in watched(AGENT).needs] == [0.45, 1.0]
    # What met a filter alone has not met the words, near as it may be.
    near = scored(0.47)
    assert judged([near], held(exact=True, text=b"u" * 16)).change is Change.LEFT
    assert judged([near], held(exact=False, text=b"u" * 16)).change is Change.UPDATED


def test_only_words_hold_a_text_that_stays_the_same() -> None:
    assert judged([], held(exact=False)).change is Change.UPDATED
    assert judged([], held(exact=True)).change is Change.LEFT
    for near, before, exact in (
        ([EXACT], None, True),
        ([EXACT, scored()], None, False),
        ([EXACT], held(exact=False), False),  # The words are met: the text is the same.
        ([EXACT], held(exact=False, text=b"u" * 16), True),
        ([EXACT, scored()], held(exact=True), False),
    ):
        holding = judged(near, before).holding
        assert holding is not None
        assert (holding.held, holding.exact) == (True, exact)


def test_deletions_and_the_services_events_pass_filters() -> None:
    deletion = {"event_type": "data_deleted"}
    gone = judged([scored(), EXACT], None, **deletion)
    assert (gone.change, gone.matches) == (Change.DELETED, (EXACT,))
    assert gone.holding is not None
    assert not gone.holding.held
    assert judged([scored()], None, **deletion).change is None
    assert judged([scored()], held(exact=False), **deletion).matches == ()
    assert judged([EXACT], Holding(1, 1, b"", False), **deletion).holding == Holding(
        1, 2, TEXT[:DIGEST_BYTES], False
    )
    service = judged([EXACT], held(exact=True), event_type="agent_registered", revision=0)
    assert service == Judgement(Change.MATCHED, (EXACT,), None)
