"""Scans whose client leaves: they read nothing more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from contex.v1 import (
    event_pb2,
    match_service_pb2,
    project_service_pb2,
    state_service_pb2,
    transfer_service_pb2,
)
from contex_server.log.embedded import EmbeddedValkey

from tests.conftest import StartServer
from tests.integration.support import (
    Api,
    EventFilter,
    ListEventsRequest,
    P,
    ReplayRequest,
    SubscribeRequest,
    Words,
    asked,
    event,
    eventually,
)

SCANS = {
    "ListEvents": lambda api, _: api.events.ListEvents(
        ListEventsRequest(project=P, filter=EventFilter(publishers=["nobody"]))
    ),
    "Replay": lambda api, _: api.events.Replay(ReplayRequest(project=P)),
    "Subscribe": lambda api, _: api.events.Subscribe(
        SubscribeRequest(project=P, edge=event_pb2.EDGE_BEGINNING)
    ),
    "ExportProject": lambda api, _: api.transfers.ExportProject(
        transfer_service_pb2.ExportProjectRequest(project=P)
    ),
    "Backtest": lambda api, _: api.matches.Backtest(
        match_service_pb2.BacktestRequest(project=P, needs=asked("some text"))
    ),
    "GetState": lambda api, middle: api.states.GetState(
        state_service_pb2.GetStateRequest(project=P, as_of=middle)
    ),
    "StreamState": lambda api, middle: api.states.StreamState(
        state_service_pb2.StreamStateRequest(project=P, as_of=middle)
    ),
    "GetHistory": lambda api, _: api.states.GetHistory(
        state_service_pb2.GetHistoryRequest(project=P, data_key="k1")
    ),
    "GetBlame": lambda api, _: api.states.GetBlame(
        state_service_pb2.GetBlameRequest(project=P, data_key="k1")
    ),
    "VerifyProject": lambda api, _: api.projects.VerifyProject(
        project_service_pb2.VerifyProjectRequest(project=P)
    ),
}


@pytest.mark.parametrize("name", SCANS)
async def test_who_leaves_a_scan_ends_it(
    name: str, start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    server = await start_server(valkey.url, embedder=words, access=False, replay_page_events=20)
    async with Api.of(server) as api:
        sequences = []
        for _ in range(5):
            sequences += await api.publish(*(event(f"k{n % 9}") for n in range(60)))
        middle = event_pb2.Position(sequence=sequences[150])
        log: Any = server.rooms.storage.log
        reads, reached, over = 0, asyncio.Event(), asyncio.Event()

        def watched(method: str) -> None:
            original = getattr(log, method)

            async def reading(*args: Any) -> Any:
                nonlocal reads
                reads += 1
                reached.set()
                await over.wait()
                return await original(*args)

            setattr(log, method, reading)

        for method in ("read_part", "history"):
            watched(method)
        call = SCANS[name](api, middle)
        answer = asyncio.ensure_future(call.read()) if hasattr(call, "read") else call
        await reached.wait()
        call.cancel()
        await asyncio.gather(answer, return_exceptions=True)
        await eventually(lambda: not server.calls.active)
        over.set()
        begun = reads
        for _ in range(100):
            await asyncio.sleep(0)
        # What was read ahead at most, and nothing goes on.
        assert begun <= 2
        assert reads == begun
        assert log.reading.held == 0
