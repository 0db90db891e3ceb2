"""The load client: grpc.aio and raw bytes, the same code for Contex and for its ceilings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import grpc
from contex.v1 import event_service_pb2

from benchmarks.http2 import Metadata
from benchmarks.messages import in_stream

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", -1),
    # A connection for each channel; by default channels to one address share one.
    ("grpc.use_local_subchannel_pool", 1),
]
_EVENTS = "/contex.v1.EventService"
PUBLISH = f"{_EVENTS}/Publish"
PUBLISH_STREAM = f"{_EVENTS}/PublishStream"
REPLAY = f"{_EVENTS}/Replay"
SUBSCRIBE = f"{_EVENTS}/Subscribe"

_PUBLISHED = 0x0A
"""First byte of a PublishStreamResponse that is no refusal: field 1, `published`."""

Unary = Callable[[bytes], Awaitable[bytes]]
DuplexCall = grpc.aio.StreamStreamCall[bytes, bytes]
StreamCall = grpc.aio.UnaryStreamCall[bytes, bytes]


class Refused(Exception):
    """The server did not take a batch."""


@asynccontextmanager
async def channels(
    target: str, count: int = 1, roots: bytes = b""
) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Connected channels, a connection each; over TLS, with root certificates."""
    if roots:
        trust = grpc.ssl_channel_credentials(roots)
        opened = [grpc.aio.secure_channel(target, trust, _OPTIONS) for _ in range(count)]
    else:
        opened = [grpc.aio.insecure_channel(target, _OPTIONS) for _ in range(count)]
    try:
        await asyncio.gather(*(channel.channel_ready() for channel in opened))
        yield opened
    finally:
        await asyncio.gather(*(channel.close() for channel in opened))


def unary(channel: grpc.aio.Channel, method: str, metadata: Metadata = ()) -> Unary:
    """A unary method on bytes."""
    # With its default serializers grpc.aio passes bytes as they are; the stubs can't say so.
    call: Any = channel.unary_unary(method)
    return cast(Unary, partial(call, metadata=metadata) if metadata else call)


def open_stream(channel: grpc.aio.Channel, method: str, request: bytes) -> StreamCall:
    """Starts a call of a method that answers with a stream, on bytes."""
    call: Any = channel.unary_stream(method)
    return cast(StreamCall, call(request))


async def read(call: StreamCall | DuplexCall) -> bytes | None:
    """The next message, or None at the end."""
    raw = await call.read()
    return raw if isinstance(raw, bytes) else None


async def closed_loop(calls: Sequence[Unary], requests: Iterable[bytes], in_flight: int) -> float:
    """Makes all requests with so many in flight, spread over `calls`; returns the seconds."""
    source = iter(requests)

    async def worker(call: Unary) -> None:
        for request in source:
            await call(request)

    start = time.perf_counter()
    await asyncio.gather(*(worker(calls[i % len(calls)]) for i in range(in_flight)))
    return time.perf_counter() - start


async def publish_stream(
    channel: grpc.aio.Channel,
    requests: Iterable[bytes],
    in_flight: int = 16,
    *,
    before_each: Callable[[], Awaitable[None]] | None = None,
    metadata: Metadata = (),
) -> float:
    """Sends batches over one PublishStream; returns the seconds until the last answer.

    Args:
        channel: Where to.
        requests: Serialised PublishRequests.
        in_flight: Batches that may be unanswered; the server reads ahead by 16.
        before_each: Awaited before each batch: a pace.
        metadata: Of the call.

    Raises:
        Refused: A batch was refused.
    """
    method: Any = channel.stream_stream(PUBLISH_STREAM)
    call = cast(DuplexCall, method(metadata=tuple(metadata)))
    window = asyncio.Semaphore(in_flight)

    async def send() -> None:
        for request in requests:
            await window.acquire()
            if before_each is not None:
                await before_each()
            await call.write(in_stream(request))
        await call.done_writing()

    start = time.perf_counter()
    sender = asyncio.create_task(send())
    try:
        while (answer := await read(call)) is not None:
            if answer[0] != _PUBLISHED:
                message = event_service_pb2.PublishStreamResponse.FromString(answer)
                raise Refused(message.refused.message)
            window.release()
        await sender
        return time.perf_counter() - start
    finally:
        sender.cancel()
        call.cancel()
