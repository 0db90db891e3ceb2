"""A project of an earlier version moves to absolute scores, also if the server is killed."""

from __future__ import annotations

from pathlib import Path

from contex import AsyncClient, Match, NewEvent
from redis.asyncio import Redis

from tests.golden.record import unpack
from tests.process.conftest import NewServer

GOLDEN = Path(__file__).parents[1] / "golden" / "main.tar.xz"
P, NEED = "shop", "return policy and refunds"
DATA, BATCH = 150, 32


async def matched(client: AsyncClient) -> Match:
    answer = await client.match(P, [NEED], threshold=1e-9, max_matches=1)
    return answer.data[0].matches[0]


async def test_a_killed_server_goes_on_with_it(new_server: NewServer, data_dir: Path) -> None:
    unpack(GOLDEN, data_dir)
    server = new_server()
    await server.start()
    bucket = "ctx:{*}:p:shop:matching"
    async with Redis(unix_socket_path=str(data_dir / "valkey" / "valkey.sock")) as store:
        (name,) = [key async for key in store.scan_iter(bucket)]
        claim = name.removesuffix(b"matching") + b"task:embedding"
        await store.set(claim, "another")  # Nothing moves while it is held.
        async with AsyncClient(server.target) as client:
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
            await server.logged("reembedding_progress")
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
        done = await server.logged("reembedded")
        assert done["texts"] <= told.texts_total - told.texts_embedded
        await server.logged("background_taken")
        now = await matched(client)
        assert (now.model, now.share) == (target, 0)
        events = [event async for event in client.list_events(P, page_size=1_000)]
        kinds = [e.event_type for e in events if e.event_type.startswith("matching")]
        assert kinds == ["matching_model_changed", "matching_background_changed"]
        assert now.background_sequence == events[-1].sequence
