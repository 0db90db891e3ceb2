"""The room of quotas, put together."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from uuid import uuid4

from contex_server.quota.keeper import QuotaKeeper
from contex_server.quota.limits import Bounds, LimitsOf
from contex_server.quota.rates import Rates
from contex_server.quota.stored import StoredUse
from contex_server.quota.streams import Streams
from contex_server.quota.usage import Used, usage
from contex_server.tiers.storage import Storage


@dataclass(frozen=True, slots=True)
class QuotaRoom:
    """What tenants may use, and do."""

    keeper: QuotaKeeper
    storage: Storage

    async def usage(self, bounds: Bounds, project: str = "") -> list[Used]:
        """See `quota.usage.usage`."""
        return await usage(self.storage.store, self.keeper.stored, bounds, project)


def open_quota(storage: Storage, limits: LimitsOf, stack: AsyncExitStack) -> QuotaRoom:
    """Builds the room; the stack closes it."""
    store = storage.store
    server = f"{os.getpid()}-{uuid4().hex[:12]}"
    keeper = QuotaKeeper(
        store,
        limits,
        Rates(store.quota),
        Streams(store.quota, server),
        StoredUse(store, storage.log, limits),
    )
    running = asyncio.create_task(keeper.run(), name="contex-quota")

    async def close() -> None:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await keeper.close()

    stack.push_async_callback(close)
    return QuotaRoom(keeper, storage)
