"""Says what a start waits for, so that nobody has to guess why there is no server yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

log = structlog.get_logger(__name__)

_FIRST_S = 0.5
"""What comes before any waiting takes about a second, and nobody should wonder for two."""
_AGAIN_S = 10.0


@asynccontextmanager
async def announced(waits_for: Callable[[], str]) -> AsyncIterator[None]:
    """Logs what the block waits for, if that takes some time, and again as long as it does.

    Args:
        waits_for: Says it, as of when it is called.
    """

    async def announce() -> None:
        delay = _FIRST_S
        while True:
            await asyncio.sleep(delay)
            log.info("start_waits", waits_for=waits_for())
            delay = _AGAIN_S

    announcing = asyncio.create_task(announce(), name="contex-start-waits")
    try:
        yield
    finally:
        announcing.cancel()
        await asyncio.gather(announcing, return_exceptions=True)
