"""Writes a load to JetStream: a connection for each writer. Runs in its own environment.

A batch is that many publishes, sent together and then waited for.
"""

from __future__ import annotations

import asyncio

import nats

from benchmarks.peers.load import Run, told, wait_for_go

_STREAM = "facts"


async def main() -> None:
    """Runs it."""
    target, load = told()
    connections = [await nats.connect(f"nats://{target}") for _ in range(load.writers)]
    streams = [connection.jetstream() for connection in connections]
    await streams[0].add_stream(name=_STREAM, subjects=[f"{_STREAM}.>"])
    before = (await streams[0].stream_info(_STREAM)).state.messages

    async def write(run: Run, writer: int) -> None:
        stream = streams[writer]
        for batch in run.batches(writer):
            if load.batch == 1:
                ((key, payload),) = batch
                await stream.publish(f"{_STREAM}.{key}", payload)
            else:
                sent = [await stream.publish_async(f"{_STREAM}.{k}", p) for k, p in batch]
                await asyncio.gather(*sent)

    wait_for_go()
    run = Run(load)
    await asyncio.gather(*(write(run, writer) for writer in range(load.writers)))
    run.report()
    after = (await streams[0].stream_info(_STREAM)).state.messages
    assert after - before == run.events, f"{after - before} messages are there, of {run.events}"
    for connection in connections:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
