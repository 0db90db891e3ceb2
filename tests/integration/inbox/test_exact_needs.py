"""What inboxes hold of needs that are filters: for whoever listens, and for whoever is away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from contex.v1.agent_service_pb2 import Need
from contex_server.log.embedded import EmbeddedValkey

from tests.conftest import StartServer
from tests.inbox_model import Told, told
from tests.integration.support import (
    AcknowledgeRequest,
    Api,
    EventFilter,
    P,
    RegisterAgentRequest,
    UnregisterAgentRequest,
    UpdateAgentRequest,
    event,
    own,
)

BLOB = {"payload": b"\xff\x00\xfe", "content_type": "application/octet-stream"}
PAID = "order.paid"
Line = tuple[str, str, tuple[int, ...]]
"""What a delivery tells, its key or else its type, and the needs that were met."""


def exact(*data_keys: str, **fields: Any) -> Need:
    return Need(filter=EventFilter(data_keys=data_keys, **fields))


def words(text: str) -> Need:
    return Need(text=text)


def paid(key: str, text: str = "alpha", event_type: str = PAID) -> Any:
    return event(key, f'"{text}"'.encode(), event_type=event_type)


def lines(items: Sequence[Any]) -> list[Line]:
    return [
        (t.kind, t.data_key or item.event.event_type, t.needs)
        for t, item in zip(map(told, items), items, strict=True)
    ]


async def register(api: Api, agent_id: str, *needs: Need, **fields: Any) -> Any:
    request = RegisterAgentRequest(project=P, agent_id=agent_id, needs=needs, **fields)
    return await api.agents.RegisterAgent(request)


async def update(api: Api, agent_id: str, *needs: Need) -> None:
    await api.agents.UpdateAgent(UpdateAgentRequest(project=P, agent_id=agent_id, needs=needs))


async def whole(api: Api, agent_id: str) -> list[Any]:
    """All that an agent's inbox holds."""
    stream = await api.listen(agent_id, after_sequence="0").live()
    await stream.cancel()
    return list(stream.matched)


class Pair:
    """Two agents with the same needs, of which one listens all the time and one never has."""

    def __init__(self, api: Api) -> None:
        self.api = api

    @classmethod
    async def of(cls, api: Api, *needs: Need, **fields: Any) -> Pair:
        pair = cls(api)
        for agent_id in ("on", "off"):
            await register(api, agent_id, *needs, **fields)
        pair.stream = await api.listen("on").live()
        return pair

    async def update(self, *needs: Need) -> None:
        for agent_id in ("on", "off"):
            await update(self.api, agent_id, *needs)

    async def hold(self, *expected: Line) -> None:
        """Both were told this since the beginning, and nothing else."""
        away = await whole(self.api, "off")
        assert lines(away) == list(expected)
        await self.stream.count(len(expected))
        assert list(map(told, self.stream.matched)) == list(map(told, away))
        assert [i.matches for i in self.stream.matched] == [i.matches for i in away]


async def test_a_durable_subscription_that_was_away(
    valkey: EmbeddedValkey, start_server: StartServer
) -> None:
    server = await start_server(valkey.url)
    async with Api.of(server) as api:
        await api.publish(paid("before"), own("note"))
        await register(api, "a", exact(event_types=[PAID]))
        await api.publish(own(PAID), own("note"), event("k", **BLOB, event_type=PAID))
    await server.stop()
    server = await start_server(valkey.url)
    async with Api.of(server) as api:
        await api.publish(own(PAID), event("other"))
        stream = await api.listen("a").live()
        assert lines(stream.matched) == [
            ("MATCHED", "before", (0,)),
            ("MATCHED", PAID, (0,)),
            ("MATCHED", "k", (0,)),
            ("MATCHED", PAID, (0,)),
        ]
        for item in stream.matched:
            (match,) = item.matches
            assert (match.score, match.need) == (1.0, f"type={PAID}")
            assert not match.HasField("parts")
        last = AcknowledgeRequest(project=P, agent_id="a", sequence=stream.sequences[2])
        await api.agents.Acknowledge(last)
        await stream.cancel()
        again = await api.listen("a").live()
        assert lines(again.matched) == [("MATCHED", PAID, (0,))]


async def test_a_datum_leaves_when_it_passes_no_longer(word_api: Api) -> None:
    pair = await Pair.of(word_api, exact(event_types=[PAID]))
    await word_api.publish(paid("k"))
    # The text is the same: that holds for words alone.
    await word_api.publish(paid("k", event_type="order.sent"))
    await word_api.publish(paid("k", event_type="order.sent"))
    await word_api.publish(paid("k"), paid("k"), paid("k", "beta"), paid("k", "beta", ""))
    await word_api.publish(paid("k"))
    await word_api.publish(event("k", b"", tombstone=True))
    await pair.hold(
        ("MATCHED", "k", (0,)),
        ("LEFT", "k", ()),
        ("MATCHED", "k", (0,)),
        ("UPDATED", "k", (0,)),
        ("UPDATED", "k", (0,)),
        ("LEFT", "k", ()),
        ("MATCHED", "k", (0,)),
        ("DELETED", "k", ()),
    )


async def test_words_and_filters_hold_a_datum_together(word_api: Api) -> None:
    pair = await Pair.of(word_api, words("alpha"), exact(event_types=[PAID]), words("omega"))
    for text, event_type in (
        ("alpha", PAID),
        ("alpha", "order.sent"),
        ("beta", PAID),
        ("beta", "order.sent"),
        ("beta", PAID),
        ("alpha", "order.sent"),
        ("beta", "order.sent"),
    ):
        await word_api.publish(paid("k", text, event_type))
    await pair.hold(
        ("MATCHED", "k", (0, 1)),
        ("UPDATED", "k", (0,)),
        ("UPDATED", "k", (1,)),
        ("LEFT", "k", ()),
        ("MATCHED", "k", (1,)),
        ("UPDATED", "k", (0,)),
        ("LEFT", "k", ()),
    )
    first = (await whole(word_api, "off"))[0].matches
    assert [match.HasField("parts") for match in first] == [False, True]
    assert [match.need for match in first] == [f"type={PAID}", "alpha"]


async def test_a_registration_brings_what_passes(word_api: Api) -> None:
    await word_api.publish(paid("a"), paid("gone"), event("blob", **BLOB), event("x", b'"omega"'))
    await word_api.publish(event("gone", b"", tombstone=True), own(PAID))
    for n in range(40):  # More than an answer shows, and than a page has.
        await word_api.publish(event(f"many/{n:02}", b'"zeta"'), publisher="p")
    pair = await Pair.of(
        word_api,
        exact(event_types=[PAID]),
        exact("bl*"),
        words("omega"),
        exact("many/*", publishers=["p"]),
    )
    found: list[Line] = [
        ("MATCHED", "a", (0,)),
        ("MATCHED", "blob", (1,)),
        ("MATCHED", "x", (2,)),
        *[("MATCHED", f"many/{n:02}", (3,)) for n in range(40)],
    ]
    await pair.hold(*found)
    await word_api.publish(paid("many/00", "zeta"))
    await pair.hold(*found, ("UPDATED", "many/00", (0,)))


async def test_a_change_of_needs_between_words_and_filters(word_api: Api) -> None:
    await word_api.publish(paid("k"), paid("l", "alpha", "order.sent"))
    pair = await Pair.of(word_api, words("alpha"))
    await pair.update(exact(event_types=[PAID]))
    # Held by words until then; from here on by a filter that does not ask for the text.
    await word_api.publish(paid("k", "alpha", "order.sent"))
    await pair.update(exact("k"))
    await pair.update(words("alpha"))
    expected: list[Line] = [
        ("MATCHED", "k", (0,)),
        ("MATCHED", "l", (0,)),
        ("LEFT", "l", ()),
        ("LEFT", "k", ()),
        ("MATCHED", "k", (0,)),
        ("MATCHED", "l", (0,)),
    ]
    await pair.hold(*expected)
    # And by words again, while the text is the same.
    await word_api.publish(paid("k", "alpha", "order.lost"))
    await pair.hold(*expected, ("UPDATED", "k", (0,)))


async def test_the_services_events_and_deletions_that_are_asked_for(word_api: Api) -> None:
    needs = [exact(event_type_prefixes=["agent_"]), exact(event_types=["data_deleted"])]
    pair = await Pair.of(word_api, *needs)
    await register(word_api, "c", words("alpha"))
    await word_api.publish(event("k"), event("l"))
    await word_api.publish(event("k", b"", tombstone=True))
    request = UnregisterAgentRequest(project=P, agent_id="c")
    await word_api.agents.UnregisterAgent(request)
    expected: list[Line] = [
        ("MATCHED", "agent_registered", (0,)),
        ("DELETED", "k", (1,)),
        ("MATCHED", "agent_unregistered", (0,)),
    ]
    # The first has seen the second being registered.
    await pair.stream.count(4)
    assert lines(pair.stream.matched) == [("MATCHED", "agent_registered", (0,)), *expected]
    assert lines(await whole(word_api, "off")) == expected
    # Of its own change it is told that its needs are others, and not of the event.
    await update(word_api, "off", exact(event_types=["data_deleted"]))
    stream = await word_api.listen("off", after_sequence="0").live()
    assert lines(stream.matched) == expected
    assert stream.kinds.count("needs_changed") == 1
    # The same again changes nothing, and keeps what is left open.
    await register(word_api, "off", exact(event_types=["data_deleted"]))
    assert lines(await whole(word_api, "off")) == expected


async def test_one_that_begins_with_the_past(word_api: Api) -> None:
    await word_api.publish(paid("k"), own(PAID), event("l"))
    await word_api.publish(paid("k", "alpha", "order.sent"))
    pair = await Pair.of(word_api, exact(event_types=[PAID]), last_seen_sequence="0")
    again: list[Told] = [told(item) for item in await whole(word_api, "off")]
    assert [t.kind for t in again] == ["MATCHED", "MATCHED", "LEFT"]
    await pair.stream.cancel()
    stream = await word_api.listen("on", after_sequence="0").live()
    assert [told(item) for item in stream.matched] == again
