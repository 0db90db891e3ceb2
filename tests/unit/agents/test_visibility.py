"""Which agents a caller sees, and what of theirs."""

from __future__ import annotations

import pytest
from contex.v1 import event_pb2
from contex_server.agents.visibility import Viewer, is_visible, shown_to, without_counts
from contex_server.events.feed import Delivery
from contex_server.kernel import event_codec
from contex_server.kernel.model import Agent, Change, Event, Sequence
from contex_server.kernel.scope import EVERYTHING, Scope

PUBLIC, APPLES, NOTHING = (Scope(frozenset(keys)) for keys in (["public.*"], ["public.a*"], []))


@pytest.mark.parametrize(
    ("agent_identity", "agent_scope", "caller_identity", "caller_scope", "visible"),
    [
        ("", EVERYTHING, "", EVERYTHING, True),
        ("", EVERYTHING, "guest", EVERYTHING, True),
        ("", EVERYTHING, "guest", PUBLIC, False),
        ("", EVERYTHING, "", PUBLIC, False),
        ("", NOTHING, "", NOTHING, False),
        ("guest", EVERYTHING, "guest", NOTHING, True),
        ("other", APPLES, "guest", PUBLIC, True),
        ("other", PUBLIC, "guest", APPLES, False),
        ("other", NOTHING, "guest", NOTHING, False),
        ("other", NOTHING, "guest", APPLES, False),
        ("guest", NOTHING, "guest", NOTHING, True),
        ("other", EVERYTHING, "guest", PUBLIC, False),
    ],
)
def test_an_agent_is_seen_by_its_own_and_by_who_sees_all_of_its_data(
    agent_identity: str,
    agent_scope: Scope,
    caller_identity: str,
    caller_scope: Scope,
    visible: bool,
) -> None:
    assert is_visible(agent_identity, agent_scope, caller_identity, caller_scope) is visible
    agent = Agent("a", (), 0.5, 1, 0, 0, identity=agent_identity, scope=agent_scope)
    assert Viewer(caller_identity, caller_scope).sees(agent) is visible


def delivery(data_key: str, change: Change, n: int) -> Delivery:
    event = Event(Sequence(n, 0), "data_published", data_key, b"content", revision=3)
    told = event_pb2.MatchedEvent(
        matches=[
            event_pb2.Match(need="x", parts=event_pb2.ScoreParts(cosine=0.5, background_passages=9))
        ],
        kind=event_pb2.MatchKind.ValueType(change),
    )
    entry = event_codec.entry(event)
    return Delivery(Sequence(n, 0), entry, change=change, told=told.SerializeToString())


async def test_what_is_withheld_is_told_to_its_own_identity_without_content() -> None:
    agent = Agent("a", (), 0.5, 1, 0, 0, identity="guest", scope=NOTHING)
    several = [
        delivery("public.apple", Change.MATCHED, 1),
        delivery("secret.apple", Change.MATCHED, 2),
        delivery("secret.apple", Change.WITHHELD, 3),
    ]
    assert shown_to(Viewer("guest", EVERYTHING), agent) is None
    for identity, places in (("guest", [1, 3]), ("other", [1])):
        show = shown_to(Viewer(identity, PUBLIC), agent)
        assert show is not None
        shown = await show(several)
        assert [each.sequence.ms for each in shown] == places
        for each in shown:
            told = event_pb2.MatchedEvent.FromString(each.told)
            assert told.kind == each.change
            assert told.matches[0].parts.background_passages == 0
            assert told.matches[0].parts.cosine == 0.5
            content = event_codec.decode(each.entry).payload
            assert content == (b"" if each.change is Change.WITHHELD else b"content")
    assert several[0].told != without_counts(several[0].told)
    assert without_counts(b"") == b""
