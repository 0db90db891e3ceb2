"""What differs between asyncio and threads.

`_sync/transport.py` offers the same names to blocking code. These two are written by hand; the
rest of `_sync` is generated from what is written here for asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
)
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import grpc
from grpc import aio

from contex.channel import channel_options, check_target, proxy_of
from contex.errors import from_rpc_error
from contex.tls import Tls, split_target

Channel: TypeAlias = aio.Channel
Condition = asyncio.Condition
Event = asyncio.Event
Lock = contextlib.nullcontext  # tasks take turns only where they wait
Mutex = asyncio.Lock
sleep = asyncio.sleep
in_thread = asyncio.to_thread

T = TypeVar("T")
M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)
Request = TypeVar("Request")
Response = TypeVar("Response")

Source: TypeAlias = Iterable[T] | AsyncIterable[T]
UnaryMethod: TypeAlias = "aio.UnaryUnaryMultiCallable[Request, Response]"
StreamMethod: TypeAlias = "aio.StreamStreamMultiCallable[Request, Response]"
Metadata: TypeAlias = tuple[tuple[str, str], ...]


class Connection:
    """The channel of a client. One that the caller passed is left open by `close`.

    A channel belongs to the event loop it is made in. When that loop is closed, as at the end of
    `asyncio.run`, the next call makes a new one.
    """

    def __init__(
        self, target: str, timeout: float, channel: Channel | None, tls: Tls | None = None
    ) -> None:
        called, tls = split_target(target, tls)
        self._target = target if channel is not None else check_target(called)
        self._tls = tls
        self._credentials = tls.credentials(self._target) if tls and channel is None else None
        self._timeout = timeout
        self._channel = channel
        self._owned = channel is None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stubs: dict[object, Any] = {}
        proxy = proxy_of(self._target) if self._owned else ""
        self.route = f"{target} through the proxy {proxy}" if proxy else ""
        """The way to the server for messages, if it is not direct."""

    @property
    def channel(self) -> Channel:
        """The channel.

        Raises:
            RuntimeError: It belongs to another loop.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._enter(loop)
        if self._channel is None:
            options = channel_options(self._timeout, target=self._target)
            if self._credentials is None or self._tls is None:
                self._channel = aio.insecure_channel(self._target, options=options)
            else:
                options += self._tls.options
                self._channel = aio.secure_channel(self._target, self._credentials, options=options)
        return self._channel

    @property
    def abandoned(self) -> bool:
        """Whether the loop that it was used in is closed, so that nothing is left to be ended."""
        return self._loop is not None and self._loop.is_closed()

    def stub(self, kind: Callable[[Channel], T]) -> T:
        """The stub of a service on the channel, or what else is made once for it."""
        channel = self.channel
        stub: T | None = self._stubs.get(kind)
        if stub is None:
            stub = self._stubs[kind] = kind(channel)
        return stub

    async def close(self) -> None:
        """Closes it."""
        if self._owned and self._channel is not None and not self.abandoned:
            await self._channel.close()

    def _enter(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None:
            if not self._owned:
                raise RuntimeError("the client's channel was made for another event loop")
            if not self.abandoned:
                raise RuntimeError("the client is in use in another event loop: make one for each")
            self._channel = None
            self._stubs.clear()
        self._loop = loop


class StreamCall(Protocol[M_co]):
    """A call whose responses are a stream."""

    def read(self) -> Awaitable[M_co | object]:
        """Reads a response, or `aio.EOF`."""

    def cancel(self) -> bool:
        """Ends the call."""


class Reader(Generic[M]):
    """Reads from one call after another until it is closed.

    Args:
        limit_s: Seconds that a read may take; None for no limit.
    """

    def __init__(self, limit_s: float | None = None) -> None:
        self.route = ""
        """How failures name the way to the server, if it is not direct."""
        self._limit_s = limit_s
        self._call: StreamCall[M] | None = None
        self._closed = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed.is_set()

    @property
    def has_call(self) -> bool:
        """Whether a call is open."""
        return self._call is not None

    async def read(self, open_call: Callable[[], StreamCall[M]]) -> M | None:
        """Reads a message from the open call, or from a new one.

        A call is open afterwards only if a message is returned.

        Returns:
            The message; None at the end of the call, and if the reader is closed meanwhile.

        Raises:
            TimeoutError: No message came within the limit.
            ContexError: The call failed.
        """
        message: Any = aio.EOF
        try:
            if self._call is None:
                self._call = open_call()
            if self._limit_s is None:
                message = await self._call.read()
            else:
                # Cancelling a read, as this timeout does, cancels its call.
                async with asyncio.timeout(self._limit_s):
                    message = await self._call.read()
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.route) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self.closed or (task is not None and task.cancelling()):
                raise
            # Nobody cancelled this task: close() cancelled the call.
        finally:
            if message is aio.EOF:
                self.drop()
        return None if message is aio.EOF else message

    async def pause(self, seconds: float) -> None:
        """Waits, unless the reader is closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

    @contextlib.asynccontextmanager
    async def limited(self, seconds: float | None) -> AsyncIterator[None]:
        """Ends reads and pauses when the time is up.

        Raises:
            TimeoutError: It is.
        """
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(f"nothing arrived within {seconds:g} s") from None

    def drop(self) -> None:
        """Ends the open call."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def close(self) -> None:
        """Ends the open call and any read or pause under way."""
        self._closed.set()
        self.drop()


class Reply(Generic[T]):
    """What one task waits for and another one brings."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[T] = self._loop.create_future()

    @property
    def is_awaited(self) -> bool:
        """Whether somebody may still wait for it."""
        return not self._future.done()

    def put(self, value: T) -> None:
        """Brings it."""
        if not self._future.done():
            self._future.set_result(value)

    def fail(self, error: Exception) -> None:
        """Brings an error instead."""
        if not self._future.done():
            self._future.set_exception(error)

    async def get(self, timeout: float) -> T:
        """Waits for it.

        Raises:
            TimeoutError: It did not come in time.
        """
        timer = self._loop.call_later(timeout, self.fail, TimeoutError())
        try:
            return await self._future
        finally:
            timer.cancel()


class Background:
    """Work that runs beside its owner."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._task = asyncio.create_task(work())

    async def stop(self) -> None:
        """Ends it; the owner has made sure that it can end."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class _Duplex(Generic[Request, Response]):
    """A call that sends requests from an iterator while its responses are read."""

    def __init__(
        self, call: aio.StreamStreamCall[Request, Response], requests: AsyncIterator[Request]
    ) -> None:
        self._call = call
        self._requests = requests
        # Not gRPC's own consumer of iterators: it outlives a call that failed.
        self._sender = asyncio.create_task(self._send())

    def read(self) -> Awaitable[Response | object]:
        return self._call.read()

    def cancel(self) -> bool:
        self._sender.cancel()
        return self._call.cancel()

    async def _send(self) -> None:
        try:
            async for request in self._requests:
                await self._call.write(request)
            await self._call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # the reader learns why the call broke


async def happens(event: Event, seconds: float | None) -> bool:
    """Waits for an event, so long at most; whether it came."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


async def in_parallel(
    work: Callable[[], Coroutine[Any, Any, None]], count: int, stop: Callable[[], Awaitable[None]]
) -> None:
    """Does the same work so many times, beside each other; the first failure ends it all.

    Args:
        stop: Lets the work come to its end, for threads; tasks are cancelled.
    """
    tasks = [asyncio.ensure_future(work()) for _ in range(count)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def duplex(
    method: StreamMethod[Request, Response], requests: AsyncIterator[Request], metadata: Metadata
) -> StreamCall[Response]:
    """Opens a call that sends and receives."""
    return _Duplex(method(metadata=metadata), requests)


def open_if_blocking(stream: T) -> T:
    """Returns a stream as it is: it opens when it is entered, for nothing can be waited for here.

    The blocking client opens it.
    """
    return stream


async def iterate(items: Source[T]) -> AsyncIterator[T]:
    """Iterates over items that may be asynchronous."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def unary(
    method: UnaryMethod[Request, Response],
    request: Request,
    timeout: float,
    metadata: Metadata,
    route: str = "",
) -> Response:
    """Makes a call; its failures name the route, if there is one.

    Raises:
        ContexError: It failed.
    """
    try:
        return await method(request, timeout=timeout, metadata=metadata)
    except grpc.RpcError as error:
        raise from_rpc_error(error, route) from error


def was_cut_off(error: BaseException) -> bool:
    """Whether a call failed as it does when its channel is closed."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and not (task and task.cancelling())
