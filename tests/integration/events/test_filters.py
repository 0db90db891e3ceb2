"""What passes a filter is the same however it is read, from the store and from the archive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import contex
import pytest
from contex.v1 import event_pb2, transfer_service_pb2
from contex_server.server import Server

from tests.integration.logs import archive, exported, imported, listed
from tests.integration.support import Api, EventFilter, P, event, own, refusal

SERVICE = {"agent_registered", "agent_unregistered", "match_feedback", "data_erased"}

FILTERS: list[tuple[dict[str, Any], Callable[[event_pb2.Event], bool]]] = [
    ({"exclude_service_events": True}, lambda e: e.event_type not in SERVICE),
    ({"event_type_prefixes": ["order."]}, lambda e: e.event_type.startswith("order.")),
    (
        {"event_type_prefixes": ["order.", "agent_"], "exclude_service_events": True},
        lambda e: e.event_type.startswith("order."),
    ),
    (
        {"event_types": ["note"], "event_type_prefixes": ["order.p"]},
        lambda e: e.event_type in ("note", "order.paid"),
    ),
    ({"event_type_prefixes": ["nothing"]}, lambda _: False),
    ({"metadata": {"region": "eu"}}, lambda e: e.metadata.get("region") == "eu"),
    (
        {"metadata": {"region": "eu", "tier": "1"}},
        lambda e: e.metadata.get("region") == "eu" and e.metadata.get("tier") == "1",
    ),
    (
        {"metadata": {"region": "us"}, "data_keys": ["k1*"]},
        lambda e: e.metadata.get("region") == "us" and e.data_key.startswith("k1"),
    ),
    ({"metadata": {"region": ""}}, lambda e: e.metadata.get("region") == ""),
]


async def fill(api: Api) -> None:
    """60 events of several types, publishers and annotations, and some of the service's."""
    for number in range(30):
        metadata = {"region": ("eu", "us", "")[number % 3]} if number % 5 else {}
        if number % 2:
            metadata["tier"] = str(number % 4)
        kind = ("", "order.paid", "order.sent")[number % 3]
        await api.publish(
            event(f"k{number}", b"%d" % number, event_type=kind, metadata=metadata),
            own("note" if number % 4 else "ordering"),
        )
        if number % 10 == 0:
            await api.register(f"agent-{number}", "apples")


@pytest.mark.parametrize("archived", [False, True])
async def test_every_reader_applies_the_same_filter(
    small_api: Api, small_server: Server, archived: bool
) -> None:
    api = small_api
    await fill(api)
    everything = await listed(api)
    if archived:
        await archive(small_server)
    for given, passes in FILTERS:
        expected = [e for e in everything if passes(e)]
        assert len(expected) < len(everything)
        assert await listed(api, filter=EventFilter(**given)) == expected
        assert (await api.replay(filter=EventFilter(**given)).to_end()).events == expected
        backwards = api.replay(filter=EventFilter(**given), order=event_pb2.ORDER_BACKWARDS)
        assert (await backwards.to_end()).events == expected[::-1]
        async with contex.AsyncClient(f"127.0.0.1:{small_server.port}") as client:
            assert [e.sequence async for e in client.list_events(P, **given)] == [
                e.sequence for e in expected
            ]
        data = await exported(
            api,
            filter=EventFilter(**given),
            format=transfer_service_pb2.EXPORT_FORMAT_JSON_LINES,
        )
        assert [e.sequence for e in expected] == [
            line.split(b'"sequence":"')[1].split(b'"')[0].decode()
            for line in data.splitlines()
            if b'"sequence":"' in line
        ]


async def test_an_import_takes_a_part(small_api: Api) -> None:
    await fill(small_api)
    data = await exported(small_api)
    await imported(
        small_api,
        data,
        filter=EventFilter(metadata={"region": "us"}, event_type_prefixes=["order."]),
    )
    expected = [
        e
        for e in await listed(small_api)
        if e.metadata.get("region") == "us" and e.event_type.startswith("order.")
    ]
    assert expected
    copied = await listed(small_api, project="copy")
    assert [e.sequence for e in copied] == [e.sequence for e in expected]


async def test_a_live_stream_applies_it_too(api: Api) -> None:
    wanted = EventFilter(exclude_service_events=True, metadata={"region": "eu"})
    stream = await api.subscribe(filter=wanted, edge=event_pb2.EDGE_END).live()
    await api.register("agent", "apples")
    await api.publish(event("a", metadata={"region": "us"}))
    await api.publish(event("b", metadata={"region": "eu", "more": "x"}))
    assert (await stream.count(1)).keys == ["b"]


async def test_what_a_filter_may_hold(api: Api) -> None:
    await api.publish(event("k"))
    for bad, field in (
        ({"event_type_prefixes": ["fine", ""]}, "filter.event_type_prefixes[1]"),
        ({"event_type_prefixes": ["x" * 65]}, "filter.event_type_prefixes[0]"),
        ({"event_type_prefixes": ["x"] * 33}, "filter.event_type_prefixes"),
        ({"metadata": {"": "x"}}, "filter.metadata"),
        ({"metadata": {"k" * 65: "x"}}, "filter.metadata"),
        ({"metadata": {"k": "x" * 4_096}}, "filter.metadata"),
        ({"metadata": {str(n): "" for n in range(33)}}, "filter.metadata"),
    ):
        refused = await refusal(api.page(filter=EventFilter(**bad)))  # type: ignore[arg-type]
        assert (refused.reason, refused.fields) == ("INVALID_FIELD", [field])
