"""A project of an earlier version moves to absolute scores, also if the server is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contex import AsyncClient, Match, NewEvent
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.key_names import key
from redis.asyncio import Redis

from tests.conftest import running_store
from tests.golden.record import unpack
from tests.process.conftest import NewServer
from tests.process.servers import ServerProcess

GOLDEN = Path(__file__).parents[1] / "golden" / "main.tar.xz"
P, NEED = "shop", "return policy and refunds"
DATA, BATCH = 150, 32


async def matched(client: AsyncClient) -> Match:
    answer = await client.match(P, [NEED], threshold=1e-9, max_matches=1)
    return answer.data[0].matches[0]


async def logged(server: ServerProcess, event: str) -> Any:
    """What is logged of this kind of the project; others move on as well."""
    count = 1
    while (entry := await server.logged(event, count))["project"] != P:
        count += 1
    return entry


def _path(store: EmbeddedValkey) -> str:
    return store.url.removeprefix("unix://")


async def test_a_killed_server_goes_on_with_it(new_server: NewServer, data_dir: Path) -> None:
    unpack(GOLDEN, data_dir)
    claim = key(P, "task:embedding")
    async with running_store(data_dir) as alone, Redis(unix_socket_path=_path(alone)) as store:
        await store.set(claim, "another")  # Nothing moves while it is held.
    server = new_server()
    await server.start()
    path = str(data_dir / "valkey" / "valkey.sock")
    async with Redis(unix_socket_path=path) as store, AsyncClient(server.target) as client:
        for start in range(0, DATA, 50):
            batch = [
                NewEvent(f"order-{n}", {"about": f"a return of {n} items", "refund": "due"})
                for n in range(start, start + 50)
            ]
            await client.publish_batch(P, batch)
        before = await matched(client)
        assert before.share != 0
        assert not before.model.endswith("#2")
        await store.delete(claim)
        await logged(server, "reembedding_progress")
    await server.kill()

    await server.start()
    async with Redis(unix_socket_path=str(data_dir / "valkey" / "valkey.sock")) as store:
        await store.delete(claim)  # That of the killed server, which expires in half a minute.
    async with AsyncClient(server.target) as client:
        told = await client.matching_status(P)
        target = told.configured_model
        assert (told.model, target[-2:]) == (before.model, "#2")
        assert BATCH <= told.texts_embedded < told.texts_total
        assert (await matched(client)).model in (before.model, target)
        done = await logged(server, "reembedded")
        assert done["texts"] <= told.texts_total - told.texts_embedded
        await logged(server, "background_taken")
        now = await matched(client)
        assert (now.model, now.share) == (target, 0)
        events = [event async for event in client.list_events(P, page_size=1_000)]
        kinds = [e.event_type for e in events if e.event_type.startswith("matching")]
        assert kinds == ["matching_model_changed", "matching_background_changed"]
        assert now.background_sequence == events[-1].sequence
