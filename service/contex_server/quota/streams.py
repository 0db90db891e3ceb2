"""Streams that are open at a time, on all servers.

A server claims in the store the streams that it may open, and renews its claim every few seconds:
that of a server that died runs out. Streams that are opened together are claimed together, at most
once in `CLAIM_S`. So a limit is exceeded only by streams that are open when it is lowered, or when
their server does not reach the store for `LEASE_S`. Far from the limit a server claims a tenth
more than it has, so that few wait; what it does not use is missing elsewhere for `RENEW_S`.

While the store can't be asked, each server lets through as many as the limit allows on it alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from contex_server.kernel.errors import ContexError
from contex_server.log.quota import Held, Place, QuotaStore
from contex_server.quota.limits import Bounds

log = structlog.get_logger(__name__)

CLAIM_S = 0.1
LEASE_S = 10.0
RENEW_S = 3.0
LIMIT = "open_streams"


class TenantStreams:
    """The streams of a tenant, on this server."""

    def __init__(
        self, tenant: str, store: QuotaStore, server: str, *, clock: Callable[[], float]
    ) -> None:
        self.tenant = tenant
        self._store = store
        self._server = server
        self._clock = clock
        self._open: Counter[str] = Counter()
        self._opening: Counter[str] = Counter()
        self._claimed: dict[str, int] = {}
        self._limits: dict[str, int] = {}
        self._claiming: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._told_s = -LEASE_S
        self._told: dict[str, int] = {}

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to tell the store."""
        return not self._open and not self._told and not self._opening

    async def open(self, bounds: Bounds, project: str) -> tuple[Place, int] | None:
        """Opens a stream of a project, or of none ("").

        Returns:
            None if it is open, until `close`; else the limit that is reached.
        """
        limits = {of: bounds.of(of, LIMIT) for of in self._of(project)}
        limited = {of: limit for of, limit in limits.items() if limit}
        self._limits.update(limits)
        if not self._fits(limited):
            for of in limits:
                self._opening[of] += 1
            try:
                await self._claim()
            finally:
                for of in limits:
                    self._opening[of] -= 1
                    if not self._opening[of]:
                        del self._opening[of]
            # Others that waited may have been first.
            if not self._fits(limited):
                of = next(of for of in limited if not self._fits({of: limited[of]}))
                return Place(of, LIMIT), limited[of]
        for of in limits:
            self._open[of] += 1
        return None

    def close(self, project: str) -> None:
        """Closes a stream that was opened."""
        for of in self._of(project):
            self._open[of] -= 1
            if not self._open[of]:
                del self._open[of]

    async def tell(self) -> None:
        """Tells the store what is open, if that has changed or was told long ago."""
        now = self._clock()
        if dict(self._open) != self._told or (self._open and now - self._told_s >= RENEW_S):
            await self._claim()
        for of in self._limits.keys() - self._open.keys() - self._opening.keys():
            del self._limits[of]

    async def end(self) -> None:
        """Gives back all that is claimed."""
        if self._claiming is not None:
            self._claiming.cancel()
            await asyncio.gather(self._claiming, return_exceptions=True)
        self._open.clear()
        if self._told or self._claimed:
            await self._store.hold_streams(self.tenant, self._server, 1, [])

    @staticmethod
    def _of(project: str) -> tuple[str, ...]:
        return ("", project) if project else ("",)

    def _fits(self, limited: dict[str, int]) -> bool:
        return all(self._open[of] < self._claimed.get(of, 0) for of in limited)

    async def _claim(self) -> None:
        """Returns when the store was asked for what is wanted now."""
        if self._claiming is None or self._claiming.done():
            self._claiming = asyncio.create_task(self._claim_soon())
        await asyncio.shield(self._claiming)

    async def _claim_soon(self) -> None:
        async with self._turn:
            await asyncio.sleep(max(0.0, self._told_s + CLAIM_S - self._clock()))
            self._claiming = None  # Whoever comes from here on is not in this one.
            await self._claim_now()

    async def _claim_now(self) -> None:
        held = [
            Held(
                of,
                limit := self._limits.get(of, 0),
                self._open[of],
                self._opening[of],
                self._open[of] // 10 if limit else 0,
            )
            for of in sorted({*self._open, *self._opening})
        ]
        self._told_s, told = self._clock(), dict(self._open)
        try:
            granted = await self._store.hold_streams(
                self.tenant, self._server, int(LEASE_S * 1000), held
            )
        except ContexError as error:
            log.debug("quota_unknown", tenant=self.tenant, error=error.message)
            self._claimed = {one.project: one.limit or one.open for one in held}
            return
        self._told = told
        self._claimed = {one.project: most for one, (most, _) in zip(held, granted, strict=True)}


class Streams:
    """The streams of all tenants, on this server.

    Args:
        server: A name of its own.
    """

    def __init__(
        self, store: QuotaStore, server: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._server = server
        self._clock = clock
        self._tenants: dict[str, TenantStreams] = {}

    def of(self, tenant: str) -> TenantStreams:
        """Those of a tenant."""
        streams = self._tenants.get(tenant)
        if streams is None:
            streams = TenantStreams(tenant, self._store, self._server, clock=self._clock)
            self._tenants[tenant] = streams
        return streams

    @contextmanager
    def closing(self, tenant: str, project: str) -> Iterator[None]:
        """Closes a stream that was opened at the end of the `with` block."""
        streams = self.of(tenant)
        try:
            yield
        finally:
            streams.close(project)

    async def tick(self) -> None:
        """Once a second: tells the store."""
        for tenant, streams in [*self._tenants.items()]:
            await streams.tell()
            if streams.is_idle:
                del self._tenants[tenant]

    async def close(self) -> None:
        """Gives back all that is claimed, if the store can be reached."""
        for streams in self._tenants.values():
            try:
                await streams.end()
            except ContexError as error:
                log.debug("quota_unknown", tenant=streams.tenant, error=error.message)
