from __future__ import annotations

import asyncio
from collections.abc import Mapping

from contex_server.events.hub import Channel, Tailer
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import BEGINNING, Sequence
from contex_server.log.port import Followed
from structlog.testing import capture_logs


class Store:
    """A store that is away at times; its own follower."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.polls = 0

    async def poll(self, positions: Mapping[str, Sequence]) -> dict[str, Followed]:
        await asyncio.sleep(0.001)
        self.polls += 1
        if self.error is not None:
            raise self.error
        return {}

    def wake(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def polled(self) -> None:
        until = self.polls + 60
        while self.polls < until:
            await asyncio.sleep(0.01)


def _ignore(_channel: Channel, _error: Exception) -> None:
    pass


async def test_an_outage_is_logged_once_and_without_a_trace() -> None:
    store, interrupted = Store(), dict[str, object]()
    tailers = [Tailer(store, f"node-{n}", interrupted, _ignore) for n in range(20)]
    away = ContexError(Reason.STORE_UNAVAILABLE, "the store is unavailable")
    with capture_logs() as logs:
        for tailer in tailers:
            tailer.add(Channel("p", BEGINNING, 1_000))
        for _ in range(2):
            store.error = away
            await store.polled()
            store.error = None
            while interrupted:
                await asyncio.sleep(0.01)
        store.error = ValueError("a defect")
        await store.polled()
        for tailer in tailers:
            await tailer.close()
    assert [log["event"] for log in logs] == ["tailer_interrupted"] * 3
    assert [log.get("error") for log in logs] == [away.message] * 2 + [None]
    assert [log.get("exc_info") for log in logs] == [None, None, store.error]
    assert not interrupted
