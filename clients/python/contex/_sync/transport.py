"""What differs between asyncio and threads: the side of blocking code.

See `_async/transport.py`, which offers the same names to asyncio. Written by hand.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, ParamSpec, Protocol, TypeAlias, TypeVar, cast

import grpc

from contex.channel import channel_options, check_target, proxy_of
from contex.errors import ContexError, from_rpc_error
from contex.tls import Tls, split_target

Channel: TypeAlias = grpc.Channel
Condition = threading.Condition
Event = threading.Event
Lock = threading.Lock
Mutex = threading.RLock
sleep = time.sleep
iterate = iter

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)
Request = TypeVar("Request")
Response = TypeVar("Response")

Source: TypeAlias = Iterable[T]
UnaryMethod: TypeAlias = "grpc.UnaryUnaryMultiCallable[Request, Response]"
StreamMethod: TypeAlias = "grpc.StreamStreamMultiCallable[Request, Response]"
Metadata: TypeAlias = tuple[tuple[str, str], ...]


class Connection:
    """The channel of a client. One that the caller passed is left open by `close`."""

    abandoned = False

    def __init__(
        self, target: str, timeout: float, channel: Channel | None, tls: Tls | None = None
    ) -> None:
        self._owned = channel is None
        self._stubs: dict[object, Any] = {}
        # Made at once: several threads may make the first call.
        self._channel: Channel | None = channel or _channel(target, timeout, tls)
        proxy = proxy_of(split_target(target, tls)[0]) if self._owned else ""
        self.route = f"{target} through the proxy {proxy}" if proxy else ""
        """The way to the server for messages, if it is not direct."""

    @property
    def channel(self) -> Channel:
        """The channel.

        Raises:
            RuntimeError: It is closed: gRPC crashes if a stub is made on a closed channel.
        """
        if self._channel is None:
            raise RuntimeError("the client is closed")
        return self._channel

    def stub(self, kind: Callable[[Channel], T]) -> T:
        """The stub of a service on the channel."""
        channel = self.channel
        stub: T | None = self._stubs.get(kind)
        if stub is None:
            stub = self._stubs[kind] = kind(channel)
        return stub

    def close(self) -> None:
        """Closes it."""
        channel, self._channel = self._channel, None
        if self._owned and channel is not None:
            channel.close()


def _channel(target: str, timeout: float, tls: Tls | None) -> Channel:
    called, tls = split_target(target, tls)
    options = channel_options(timeout, target=check_target(called))
    if tls is None:
        return grpc.insecure_channel(called, options=options)
    return grpc.secure_channel(called, tls.credentials(called), options=[*options, *tls.options])


class StreamCall(Protocol[M_co]):
    """A call whose responses are a stream."""

    def __next__(self) -> M_co:
        """Blocks until the next response."""

    def cancel(self) -> bool:
        """Ends the call."""


class Reader(Generic[M]):
    """Reads from one call after another until it is closed, perhaps by another thread.

    Args:
        limit_s: Seconds that a read may take; None for no limit.
    """

    def __init__(self, limit_s: float | None = None) -> None:
        self.route = ""
        """How failures name the way to the server, if it is not direct."""
        self._watchdog = None if limit_s is None else _Watchdog(limit_s)
        if self._watchdog is not None:  # its thread would outlive a stream that nobody closes
            weakref.finalize(self, self._watchdog.stop)
        self._call: StreamCall[M] | None = None
        self._deadline: float | None = None
        self._closed = threading.Event()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed.is_set()

    @property
    def has_call(self) -> bool:
        """Whether a call is open."""
        return self._call is not None

    def read(self, open_call: Callable[[], StreamCall[M]]) -> M | None:
        """Reads a message from the open call, or from a new one.

        A call is open afterwards only if a message is returned.

        Returns:
            The message; None at the end of the call, and if the reader is closed meanwhile.

        Raises:
            TimeoutError: No message came within the limit.
            ContexError: The call failed.
        """
        message = None
        try:
            call = self._call
            if call is None:
                call = self._call = open_call()
                if self.closed:  # close() has not seen this call
                    return None
            if self._watchdog is not None:
                self._watchdog.watch(call, self._left())
            message = next(call, None)
        except grpc.RpcError as error:
            if self.closed:  # close() cancelled the call
                return None
            if self._watchdog is not None and self._watchdog.barked:
                if self._left() == 0:
                    raise _Expired from None
                raise TimeoutError from None
            raise from_rpc_error(error, self.route) from error
        finally:
            if self._watchdog is not None:
                self._watchdog.rest()
            if message is None:
                self.drop()
        return message

    def pause(self, seconds: float) -> None:
        """Waits, unless the reader is closed."""
        left = self._left()
        self._closed.wait(seconds if left is None else min(seconds, left))
        if self._left() == 0:
            raise _Expired

    @contextlib.contextmanager
    def limited(self, seconds: float | None) -> Iterator[None]:
        """Ends reads and pauses when the time is up; the reader needs a limit for each read, too.

        Raises:
            TimeoutError: It is.
        """
        self._deadline = None if seconds is None else time.monotonic() + seconds
        try:
            yield
        except _Expired:
            raise TimeoutError(f"nothing arrived within {seconds:g} s") from None
        finally:
            self._deadline = None

    def _left(self) -> float | None:
        """Seconds until the time is up; None if there is no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def drop(self) -> None:
        """Ends the open call."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def close(self) -> None:
        """Ends the open call and any read or pause under way."""
        self._closed.set()
        if self._watchdog is not None:
            self._watchdog.stop()
        self.drop()


class _Expired(Exception):
    """The time of a wait is up. Not a TimeoutError, which is for a connection that is silent."""


class _Watchdog:
    """Cancels a blocking read that takes too long, as the read itself has no timeout.

    One thread for each stream, started at its first read; not one timer for each message.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._call: StreamCall[Any] | None = None
        self._until = 0.0
        self._stopped = False
        self.barked = False
        """Whether the last read was cancelled."""

    def watch(self, call: StreamCall[Any], limit_s: float | None = None) -> None:
        """Watches over a read that begins; `limit_s` if it may take less than others."""
        with self._changed:
            self._call = call
            self._until = time.monotonic() + self._limit_s
            self.barked = False
            if limit_s is not None and limit_s < self._limit_s:
                self._until = time.monotonic() + limit_s
                self._changed.notify_all()
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(
                    target=self._run, name="contex-watchdog", daemon=True
                )
                self._thread.start()

    def rest(self) -> None:
        """Stops watching: the read has ended."""
        with self._changed:
            self._call = None

    def stop(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _run(self) -> None:
        with self._changed:
            while not self._stopped:
                # A read that begins during this wait is noticed when the wait is over, and from
                # then on waited for exactly: no message needs to wake this thread, unless its
                # limit is shorter.
                left = self._limit_s
                if self._call is not None and not self.barked:
                    left = self._until - time.monotonic()
                    if left <= 0:
                        self.barked = True
                        self._call.cancel()
                        continue
                self._changed.wait(left)


class Reply(Generic[T]):
    """What one thread waits for and another one brings, once."""

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._gate.acquire()
        self._value: T | None = None
        self._error: Exception | None = None
        self.is_awaited = True
        """Whether somebody may still wait for it."""

    def put(self, value: T) -> None:
        """Brings it."""
        self._value = value
        self._gate.release()

    def fail(self, error: Exception) -> None:
        """Brings an error instead."""
        self._error = error
        self._gate.release()

    def get(self, timeout: float) -> T:
        """Waits for it.

        Raises:
            TimeoutError: It did not come in time.
        """
        try:
            if not self._gate.acquire(timeout=timeout):
                raise TimeoutError
        finally:
            self.is_awaited = False
        if self._error is not None:
            raise self._error
        return cast("T", self._value)


class Background:
    """Work that runs beside its owner."""

    def __init__(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name="contex-background", daemon=True).start()

    def stop(self) -> None:
        """Ends it; the owner has made sure that it can end, which it does in its own time."""


def happens(event: Event, seconds: float | None) -> bool:
    """Waits for an event, so long at most; whether it came."""
    return event.wait(seconds)


def in_parallel(work: Callable[[], None], count: int, stop: Callable[[], None]) -> None:
    """Does the same work so many times, beside each other; the first failure is raised at the end.

    Args:
        stop: Lets the work come to its end, if this is interrupted.
    """
    if count == 1:
        work()
        return
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=run, name=f"contex-worker-{number}", daemon=True)
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        stop()
        for thread in threads:
            thread.join()
        raise
    if failures:
        raise failures[0]


def duplex(
    method: StreamMethod[Request, Response], requests: Iterator[Request], metadata: Metadata
) -> StreamCall[Response]:
    """Opens a call that sends and receives."""
    return method(requests, metadata=metadata)


class _Opening(Protocol):
    def open(self) -> object: ...


OpeningT = TypeVar("OpeningT", bound=_Opening)


def open_if_blocking(stream: OpeningT) -> OpeningT:
    """Opens a stream, and returns it."""
    stream.open()
    return stream


def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function that blocks, which is fine here."""
    return function(*args, **kwargs)


def unary(
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
        return method(request, timeout=timeout, metadata=metadata)
    except grpc.RpcError as error:
        raise from_rpc_error(error, route) from error


def was_cut_off(error: BaseException) -> bool:
    """Whether a call failed as it does when its channel is closed, or was closed before."""
    cancelled = isinstance(error, ContexError) and error.code is grpc.StatusCode.CANCELLED
    return cancelled or isinstance(error, ValueError)
