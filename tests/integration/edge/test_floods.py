"""Requests are let in by their bytes, the small ones apart from the large ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from contex_server.edge.intake import SMALL_BYTES
from contex_server.log.embedded import EmbeddedValkey
from contex_server.server import Server

from tests.conftest import StartServer
from tests.integration.support import (
    DEADLINE_S,
    Api,
    P,
    PublishRequest,
    PublishStreamRequest,
    Words,
    event,
    refusal,
)

LARGE = SMALL_BYTES * 2
PAYLOAD = b'"%s"' % (b"x" * LARGE)
ROOM = 256 * 1024


@pytest.fixture
async def tight(start_server: StartServer, valkey: EmbeddedValkey) -> Server:
    """A server that lets in few bytes at once."""
    return await start_server(valkey.url, embedder=Words(), request_bytes=ROOM)


@pytest.fixture
async def tight_api(tight: Server) -> AsyncIterator[Api]:
    async with Api.of(tight) as api:
        yield api


async def test_a_flood_is_refused_with_a_delay_and_small_calls_pass(
    tight: Server, tight_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contex_server.edge.intake._WAIT_S", 0.05)
    others = await tight.intake.take(ROOM)  # what other large requests take
    large = event("large", PAYLOAD)
    told = await refusal(tight_api.publish(large))
    assert (told.code, told.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
    assert told.metadata == {"limit_bytes": str(ROOM)}
    assert told.retry_after_ms == 500
    await tight_api.publish(event("small", b"1"))
    others.give_back()
    await tight_api.publish(large)
    assert (tight.intake.large.held, tight.intake.small.held) == (0, 0)


async def test_a_large_request_waits_for_a_moment(tight: Server, tight_api: Api) -> None:
    others = await tight.intake.take(ROOM)
    publish = asyncio.create_task(tight_api.publish(event("large", PAYLOAD)))
    async with asyncio.timeout(DEADLINE_S):
        while not tight.intake.large.waiting:
            await asyncio.sleep(0.001)
    others.give_back()
    assert await publish


async def test_a_stream_counts_what_is_unanswered_and_waits(tight: Server, tight_api: Api) -> None:
    batches = [
        PublishStreamRequest(publish=PublishRequest(project=P, events=[event(f"k{n}", PAYLOAD)]))
        for n in range(8)
    ]
    call = tight_api.events.PublishStream(timeout=DEADLINE_S)
    others = await tight.intake.take(ROOM)
    for batch in batches:
        await call.write(batch)
    async with asyncio.timeout(DEADLINE_S):
        while not tight.intake.large.waiting:
            await asyncio.sleep(0.001)
    assert LARGE <= tight.intake.large.waiting < 2 * LARGE  # It reads no more than one ahead.
    others.give_back()
    await call.done_writing()
    answers = [answer async for answer in call]
    assert [len(answer.published.receipts) for answer in answers] == [1] * 8
    assert tight.intake.large.held == 0


async def test_a_stream_of_answers_holds_nothing(tight: Server, tight_api: Api) -> None:
    await tight_api.publish(event("k", b"1"))
    stream = await tight_api.subscribe().live()
    assert tight.intake.small.held == 0
    await stream.cancel()
