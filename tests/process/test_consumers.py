"""Consumers of a server that is killed."""

from __future__ import annotations

from tests.integration.groups.test_consuming import names, queue
from tests.integration.groups.worker import Worker
from tests.integration.support import Api
from tests.process.servers import ServerProcess


async def test_claims_and_attempts_outlast_a_server_that_is_killed(server: ServerProcess) -> None:
    async with Api.at(server.port) as api:
        await queue(api, *"klmk")
        async with Worker(api, "x") as x:
            first, second, third = names(await x.count(3))
            assert await x.ack(first) == []
            await x.count(4)
            await server.kill()
            await x.until(lambda: x.error)
    await server.start()
    async with Api.at(server.port) as api, Worker(api, "x", held_delivery_ids=[second]) as x:
        assert await x.ack(second) == []
        again = await x.count(2)
        found = {each.matched.event.data_key: each.attempt for each in again}
        assert found == {"m": 2, "k": 2}
        assert await x.ack(third) == [third]
        assert await x.ack(*names(again)) == []
