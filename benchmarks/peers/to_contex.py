"""Writes a load to Contex, all by one client: `publish`, or a `publish_stream` for each writer."""

from __future__ import annotations

import asyncio

from contex import AsyncClient, Durability, NewEvent

from benchmarks.peers.load import KEYS, Run, event, told, wait_for_go

_PROJECT = "peers"
_JSON = "application/json"


async def main() -> None:
    """Runs it."""
    target, load = told()
    async with AsyncClient(target) as client:
        # Embeds the texts, which differ by their keys alone.
        warm = [NewEvent(*event(number), content_type=_JSON) for number in range(KEYS)]
        await client.publish_batch(_PROJECT, warm)
        write = _singles if load.batch == 1 else _batches
        wait_for_go()
        run = Run(load)
        stored = await asyncio.gather(*(write(client, run, n) for n in range(load.writers)))
        run.report()
    assert sum(stored) == run.events, f"{sum(stored)} events were stored, of {run.events}"


async def _singles(client: AsyncClient, run: Run, writer: int) -> int:
    stored = 0
    for ((key, payload),) in run.batches(writer):
        await client.publish(
            _PROJECT, key, payload, content_type=_JSON, durability=Durability.FSYNC
        )
        stored += 1
    return stored


async def _batches(client: AsyncClient, run: Run, writer: int) -> int:
    batches = ([NewEvent(*e, content_type=_JSON) for e in batch] for batch in run.batches(writer))
    stored = 0
    stream = client.publish_stream(_PROJECT, batches, durability=Durability.FSYNC)
    async with stream as results:
        async for result in results:
            if result.error is not None:
                raise result.error
            stored += len(result.receipts)
    return stored


if __name__ == "__main__":
    asyncio.run(main())
