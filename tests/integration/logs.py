"""Logs that are archived, moved and verified, and what is read of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from contex.v1 import event_pb2, project_service_pb2, state_service_pb2
from contex.v1.transfer_service_pb2 import (
    ExportProjectRequest,
    ImportFinish,
    ImportProjectRequest,
    ImportStart,
)
from contex_server.server import Server

from tests.integration.support import DEADLINE_S, Api, ListEventsRequest, P, event, own


async def story(api: Api, rounds: int = 40) -> list[event_pb2.Event]:
    """Some rounds of events of six keys, some of them deleted; the log that they make."""
    for n in range(rounds):
        some = [event(f"k{n % 5}", b"%d" % n), event("often", b"%d" % n), own("note")]
        if n % 8 == 7:
            some.append(event(f"k{n % 3}", b"", tombstone=True))
        await api.publish(*some)
    return await listed(api)


async def listed(api: Api, project: str = P, **fields: Any) -> list[event_pb2.Event]:
    request = ListEventsRequest(project=project, page_size=1_000, **fields)
    found: list[event_pb2.Event] = []
    while True:
        page = await api.events.ListEvents(request, timeout=DEADLINE_S)
        found += page.events
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def state(api: Api, at: str) -> dict[str, tuple[str, bytes]]:
    request = state_service_pb2.GetStateRequest(
        project=P, as_of=event_pb2.Position(sequence=at), page_size=1_000
    )
    page = await api.states.GetState(request, timeout=DEADLINE_S)
    assert not page.next_page_token
    return {d.data_key: (d.sequence, d.event.payload) for d in page.data}


def fold(events: list[event_pb2.Event]) -> dict[str, tuple[str, bytes]]:
    latest = {e.data_key: e for e in events if e.data_key}
    return {
        key: (e.sequence, e.payload)
        for key, e in sorted(latest.items())
        if e.event_type != "data_deleted"
    }


async def stats(api: Api, project: str = P) -> Any:
    request = project_service_pb2.GetStatsRequest(project=project)
    return await api.projects.GetStats(request, timeout=DEADLINE_S)


async def archive(server: Server) -> None:
    assert server.rooms.projects.archiver is not None
    await server.rooms.projects.archiver.archive_all(P)


async def exported(api: Api, project: str = P, **fields: Any) -> bytes:
    request = ExportProjectRequest(project=project, **fields)
    data = bytearray()
    summary = None
    async for piece in api.transfers.ExportProject(request, timeout=DEADLINE_S):
        data += piece.data
        assert piece.byte_count == len(data)
        summary = piece.summary if piece.HasField("summary") else None
    assert summary is not None
    return bytes(data)


def requests(data: bytes, start: ImportStart, size: int = 4_000) -> Iterable[ImportProjectRequest]:
    yield ImportProjectRequest(start=start)
    for at in range(0, len(data), size):
        yield ImportProjectRequest(data=data[at : at + size])
    yield ImportProjectRequest(finish=ImportFinish())


async def imported(api: Api, data: bytes, project: str = "copy", **fields: Any) -> Any:
    size = fields.pop("size", 4_000)
    start = ImportStart(project=project, **fields)
    last = None
    async for response in api.transfers.ImportProject(
        requests(data, start, size), timeout=DEADLINE_S
    ):
        last = response
    assert last is not None
    assert last.HasField("report")
    return last.report
