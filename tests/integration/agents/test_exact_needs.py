"""Needs that are filters, over the wire: live, from the log, answered, tested and explained."""

from __future__ import annotations

from typing import Any

import pytest
from contex.v1.agent_service_pb2 import GetAgentContextRequest, Need
from contex.v1.match_service_pb2 import (
    AgentNeed,
    BacktestRequest,
    ExplainRequest,
    MatchRequest,
    RecordFeedbackRequest,
)
from contex_server.log.embedded import EmbeddedValkey

from tests.conftest import StartServer
from tests.integration.support import (
    DEADLINE_S,
    AcknowledgeRequest,
    Api,
    EventFilter,
    GetAgentRequest,
    P,
    RegisterAgentRequest,
    Stream,
    UpdateAgentRequest,
    Words,
    event,
    own,
    refusal,
)

BLOB = {"payload": b"\xff\x00\xfe", "content_type": "application/octet-stream"}


def exact(*data_keys: str, **fields: Any) -> Need:
    """A need that is a filter; the fields of both may be given."""
    of_need = {n: fields.pop(n) for n in ("max_matches", "exclude_data_keys") if n in fields}
    return Need(filter=EventFilter(data_keys=data_keys, **fields), **of_need)


async def register(api: Api, *needs: Need, agent_id: str = "a", **fields: Any) -> Any:
    request = RegisterAgentRequest(project=P, agent_id=agent_id, needs=needs, **fields)
    return await api.agents.RegisterAgent(request, timeout=DEADLINE_S)


async def update(api: Api, *needs: Need, agent_id: str = "a", **fields: Any) -> Any:
    request = UpdateAgentRequest(project=P, agent_id=agent_id, needs=needs, **fields)
    return await api.agents.UpdateAgent(request, timeout=DEADLINE_S)


def why(data: Any) -> list[tuple[str, list[int]]]:
    """Keys or types of what came, and the needs that were met."""
    return [
        (d.event.data_key or d.event.event_type, [m.need_index for m in d.matches]) for d in data
    ]


async def drained(stream: Stream, *expected: tuple[str, list[int]]) -> None:
    """Reads until what is expected has come, and nothing else."""
    await stream.count(len(expected))
    assert why(stream.matched) == list(expected)


async def test_a_durable_subscription_of_one_type(
    valkey: EmbeddedValkey, start_server: StartServer
) -> None:
    server = await start_server(valkey.url)
    async with Api.of(server) as api:
        await api.publish(own("order.paid"), own("note"))
        registered = await register(api, exact(event_types=["order.paid"]))
        # Events without a key are no data.
        assert why(registered.data) == []
        (need,) = registered.agent.needs
        assert (need.text, len(need.id)) == ("", 8)
        assert list(need.filter.event_types) == ["order.paid"]
        stream = await api.listen("a").live()
        await api.publish(own("note"), own("order.paid"), event("k", event_type="order.paid"))
        await drained(stream, ("order.paid", [0]), ("k", [0]))
        (match,) = stream.matched[0].matches
        assert (match.score, match.need, match.need_id) == (1.0, "type=order.paid", need.id)
        assert not match.HasField("parts")
        acknowledge = AcknowledgeRequest(project=P, agent_id="a", sequence=stream.sequences[0])
        await api.agents.Acknowledge(acknowledge)
        await stream.cancel()
        await api.publish(own("order.paid"))
        # From the log: what was not acknowledged, and what came meanwhile.
        again = await api.listen("a").live()
        assert why(again.matched) == [("k", [0]), ("order.paid", [0])]
        await again.cancel()
    await server.stop()
    server = await start_server(valkey.url)
    async with Api.of(server) as api:
        agent = (await api.agents.GetAgent(GetAgentRequest(project=P, agent_id="a"))).agent
        assert list(agent.needs) == [need]
        stream = await api.listen("a").live()
        assert why(stream.matched) == [("k", [0]), ("order.paid", [0])]
        await api.publish(own("order.paid"))
        await drained(stream, ("k", [0]), ("order.paid", [0]), ("order.paid", [0]))


async def test_words_and_filters_are_one_registration(word_api: Api) -> None:
    await word_api.publish(event("colours", b'"red fox"'), event("orders/1", b'"blue"'))
    needs = [exact("x/*"), Need(text="red fox"), exact("orders/*", "colours")]
    registered = await register(word_api, *needs, threshold=0.3)
    # Filters first, newest first; a datum is listed once, with all that it met, best first.
    assert why(registered.data) == [("orders/1", [2]), ("colours", [2, 1])]
    stream = await word_api.listen("a").live()
    await word_api.publish(
        event("colours", b'"a red fox"'), event("x/1", b'"blue"'), event("other", b'"green"')
    )
    brought = ("colours", [2, 1]), ("orders/1", [2])
    await drained(stream, *brought, ("colours", [2, 1]), ("x/1", [0]))
    scores = [match.score for match in stream.matched[2].matches]
    assert scores[0] == 1.0 >= scores[1] >= 0.3
    assert stream.matched[2].matches[1].HasField("parts")
    # The same from the log.
    again = await word_api.listen("a", after_sequence="0").live()
    assert why(again.matched)[-2:] == [("colours", [2, 1]), ("x/1", [0])]


async def test_what_has_no_text_is_delivered(api: Api) -> None:
    await register(api, exact("blob*", exclude_data_keys=["blob/secret"]))
    stream = await api.listen("a").live()
    await api.publish(event("blob/1", **BLOB), event("blob/secret", **BLOB), event("other", **BLOB))
    await api.publish(event("blob/1", tombstone=True, payload=b""))
    await drained(stream, ("blob/1", [0]), ("blob/1", [0]))
    assert stream.events[0].opaque
    assert stream.events[1].event_type == "data_deleted"
    await api.publish(event("blob/2", **BLOB))
    # Deleted data are not returned, opaque ones are; so they are to one that asks.
    registered = await register(api, exact("blob*"), agent_id="b")
    assert why(registered.data) == [("blob/2", [0]), ("blob/secret", [0])]
    answer = await api.matches.Match(MatchRequest(project=P, questions=[exact("*2", "*t")]))
    assert why(answer.data) == [("blob/2", [0]), ("blob/secret", [0])]


async def test_the_services_events_come_to_who_names_them(api: Api) -> None:
    await register(api, exact(), agent_id="everything")
    await register(api, exact(event_types=["agent_registered"]), agent_id="a")
    everything = await api.listen("everything").live()
    stream = await api.listen("a").live()
    await register(api, exact("x"), agent_id="c")
    await api.publish(event("k"))
    await drained(stream, ("agent_registered", [0]))
    await drained(everything, ("k", [0]))
    # One's own comes as a change, and not as an event too, live and from the log.
    await update(api, exact(event_type_prefixes=["agent_"]))
    await stream.until(lambda s: "needs_changed" in s.kinds)
    await register(api, exact("y"), agent_id="c")
    await drained(stream, ("agent_registered", [0]), ("agent_registered", [0]))
    again = await api.listen("a", after_sequence=stream.events[0].sequence).live()
    assert why(again.matched) == [("agent_registered", [0])]
    assert again.kinds.count("needs_changed") == 1


async def test_live_data_are_answered_by_key_and_by_event(api: Api) -> None:
    for n in range(50):
        await api.publish(
            event(f"k/{n}", metadata={"odd": str(n % 2)}, event_type="e.x" if n < 10 else ""),
            publisher=f"p{n % 5}",
        )
    newest = await register(api, exact("k/*", max_matches=3))
    assert why(newest.data) == [("k/49", [0]), ("k/48", [0]), ("k/47", [0])]
    for need, expected in (
        (exact(metadata={"odd": "1"}), ["k/49", "k/47", "k/45"]),
        (exact(publishers=["p1", "p2"]), ["k/47", "k/46", "k/42"]),
        (exact(event_types=["e.x"]), ["k/9", "k/8", "k/7"]),
        (
            exact("k/?", event_type_prefixes=["e."], exclude_data_keys=["k/8"]),
            ["k/9", "k/7", "k/6"],
        ),
        (exact("k/1?", publishers=["p0"], metadata={"odd": "0"}), ["k/10"]),
        (exact(), ["k/49", "k/48", "k/47"]),
    ):
        changed = await update(api, need, max_matches=3)
        assert [key for key, _ in why(changed.data)] == expected
        request = MatchRequest(project=P, questions=[need], max_matches=3)
        answer = await api.matches.Match(request)
        assert [key for key, _ in why(answer.data)] == expected
        request.as_of.sequence = newest.sequence
        past = await api.matches.Match(request)
        assert [key for key, _ in why(past.data)] == expected
    several = await update(api, exact("k/4"), exact("k/4", publishers=["p4"]), max_matches=3)
    assert why(several.data) == [("k/4", [0, 1])]


async def test_a_change_brings_what_did_not_match_before(word_api: Api) -> None:
    for n in range(6):
        await word_api.publish(event(f"red/{n}", b'"red fox"'), publisher=f"p{n % 2}")
    await word_api.publish(event("blue", b'"blue"'))
    await register(word_api, exact("red/1", "red/2"))
    seen = 0

    async def brings(*needs: Need) -> list[tuple[str, str]]:
        nonlocal seen
        if needs:
            await update(word_api, *needs, max_matches=1)
        stream = await word_api.listen("a", after_sequence="0").live()
        await stream.cancel()
        told = list(zip(stream.told, stream.keys, strict=True))[seen:]
        seen += len(told)
        return told

    def of_red(told: str, *numbers: int) -> list[tuple[str, str]]:
        return [(told, f"red/{n}") for n in numbers]

    assert await brings() == of_red("MATCHED", 1, 2)
    assert await brings(exact("red/*")) == of_red("MATCHED", 0, 3, 4, 5)
    assert await brings(exact(publishers=["p1"])) == of_red("LEFT", 0, 2, 4)
    assert await brings(Need(text="red fox")) == of_red("MATCHED", 0, 2, 4)
    assert await brings(exact(), exact("red/*")) == [("MATCHED", "blue")]
    gone = [*of_red("LEFT", 1, 3, 5), ("LEFT", "blue")]
    assert await brings(exact(publishers=["p0"])) == gone
    assert await brings(exact("red/*", max_matches=1)) == of_red("MATCHED", 1, 3, 5)
    assert await brings(exact("red/*"), Need(text="blue")) == [("MATCHED", "blue")]


async def test_the_past_is_tested_and_what_was_known(api: Api) -> None:
    await api.publish(event("k/1"), own("ping"), event("blob", **BLOB))
    await register(api, exact("k/*"), exact(event_types=["agent_registered"]))
    await api.publish(event("k/1", tombstone=True, payload=b""))
    needs = [
        exact("k/*"),
        exact(event_types=["agent_registered"]),
        exact(),
        Need(text="no such words at all"),
    ]
    call = api.matches.Backtest(BacktestRequest(project=P, needs=needs))
    answers = [answer async for answer in call]
    events = [e for a in answers if a.HasField("events") for e in a.events.events]
    assert why(events) == [
        ("k/1", [0, 2]),
        ("ping", [2]),
        ("blob", [2]),
        ("agent_registered", [1]),
        ("k/1", [0, 2]),
    ]
    summary = answers[-1].summary
    assert [need.events_matched for need in summary.needs] == [2, 1, 4, 0]
    assert summary.needs[0].threshold == 1
    assert list(summary.needs[0].events_at_threshold) == [2] * 19
    assert (summary.events_judged, summary.events_matched) == (5, 5)

    await api.publish(event("k/2"), event("k/3"))
    stream = await api.listen("a").count(2)
    request = GetAgentContextRequest(project=P, agent_id="a")
    knew = await api.agents.GetAgentContext(request)
    assert [datum.data_key for datum in knew.known] == ["k/2", "k/3"] or stream.keys
    assert knew.known[-1].needs[0].need == "key=k/*"
    await stream.cancel()
    await api.publish(event("k/4"))
    knew = await api.agents.GetAgentContext(request)
    assert [datum.event.data_key for datum in knew.pending] == ["k/4"]


async def test_it_is_explained_and_not_judged(api: Api) -> None:
    published = await api.publish(event("k/1"), event("blob", **BLOB))
    await register(api, exact("k/*", publishers=["p"]), exact("blob"))

    async def explain(need_index: int, **fields: Any) -> Any:
        need = AgentNeed(agent_id="a", need_index=need_index)
        return await api.matches.Explain(ExplainRequest(project=P, agent_need=need, **fields))

    told = await explain(0, data_key="k/1")
    assert not told.matched
    assert told.need_match.score == 0
    assert told.verdict == (
        "It does not match: it fails the filter by its publisher, and passes it by its data key."
    )
    told = await explain(1, sequence=published[1])
    assert told.matched
    assert (told.need_match.score, told.need_match.need_index) == (1, 1)
    assert (told.rank, len(told.passages)) == (0, 0)
    assert (await explain(1, data_key="blob")).matched
    refused = await refusal(explain(0, data_key="k/1", threshold=0.5))
    assert (refused.reason, refused.fields) == ("INVALID_FIELD", ["threshold"])
    feedback = RecordFeedbackRequest(
        project=P, agent_id="a", sequence=published[1], need_index=1, need="key=blob", useful=True
    )
    refused = await refusal(api.matches.RecordFeedback(feedback))
    assert (refused.reason, refused.fields) == ("INVALID_FIELD", ["need_index"])


@pytest.mark.parametrize(
    ("need", "field"),
    [
        (Need(), "needs[0].text"),
        (Need(text="x", filter=EventFilter()), "needs[0].filter"),
        (Need(filter=EventFilter(), threshold=0.5), "needs[0].threshold"),
        (exact("x\\"), "needs[0].filter.data_keys[0]"),
        (exact(*["x"] * 33), "needs[0].filter.data_keys"),
        (exact(event_types=[""]), "needs[0].filter.event_types[0]"),
        (exact(event_type_prefixes=[""]), "needs[0].filter.event_type_prefixes[0]"),
        (exact(publishers=["x" * 129]), "needs[0].filter.publishers[0]"),
        (exact(metadata={"": "x"}), "needs[0].filter.metadata"),
        (exact(max_matches=101), "needs[0].max_matches"),
    ],
)
async def test_what_a_filter_may_be(api: Api, need: Need, field: str) -> None:
    await api.publish(event())
    refused = await refusal(register(api, need))
    assert (refused.reason, refused.fields) == ("INVALID_FIELD", [field])
    refused = await refusal(api.matches.Match(MatchRequest(project=P, questions=[need])))
    assert refused.fields == [field.replace("needs", "questions")]


async def test_filters_are_not_embedded(words: Words, word_api: Api) -> None:
    await word_api.publish(event("red", b'"red"'))
    await register(word_api, exact("blue"))
    words.down = True
    registered = await register(word_api, exact("red"), exact(event_types=["x"]))
    assert why(registered.data) == [("red", [0])]
