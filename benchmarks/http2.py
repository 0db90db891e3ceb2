"""Server streams on bare HTTP/2: subscribers that cost the machine next to nothing.

A subscription of grpc.aio costs its client 60 to 80 µs a message, which is more than it costs
the server. A hundred agents have that spread over a hundred machines; a benchmark has all of
them in one process beside the server, and would measure itself. Here a message costs 10 to 30.

Just enough of RFC 9113 for it: requests without compression, no flow control towards the server
(the windows are opened to 2 GiB at the start), no priorities, no padding.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

OnMessage = Callable[[bytes], None]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4
_HEAD = 9
_MESSAGE_HEAD = 5
_MAX_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_OUR_SETTINGS = b"".join(
    name.to_bytes(2, "big") + value.to_bytes(4, "big")
    for name, value in ((4, _MAX_WINDOW), (5, 2**24 - 1))  # stream window, frame size
)
_POST_HTTP = b"\x83\x86"
"""HPACK's static entries for ":method: POST" and ":scheme: http"."""


class StreamEnded(Exception):
    """The server ended a stream or the connection."""


class Connection(asyncio.Protocol):
    """One connection with any number of server streams."""

    def __init__(self, authority: str) -> None:
        self._authority = authority.encode()
        self._next_stream = 1
        self._streams: dict[int, OnMessage] = {}
        self._unparsed = b""
        self._parts: dict[int, bytes] = {}
        self._closing = False
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets the exception if the server ends anything."""

    def subscribe(self, method: str, request: bytes, on_message: OnMessage) -> None:
        """Starts a call; every message goes to `on_message`."""
        stream = self._next_stream
        self._next_stream += 2
        self._streams[stream] = on_message
        headers = _POST_HTTP + b"".join(
            b"\0" + _text(name) + _text(value)
            for name, value in (
                (b":path", method.encode()),
                (b":authority", self._authority),
                (b"content-type", b"application/grpc"),
                (b"te", b"trailers"),
            )
        )
        message = b"\0" + len(request).to_bytes(4, "big") + request
        self._transport.write(
            _frame(_HEADERS, _END_HEADERS, stream, headers)
            + _frame(_DATA, _END_STREAM, stream, message)
        )

    def close(self) -> None:
        """Closes the connection and with it every stream."""
        self._closing = True
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        window = (_MAX_WINDOW - _DEFAULT_WINDOW).to_bytes(4, "big")
        self._transport.write(
            _PREFACE + _frame(_SETTINGS, 0, 0, _OUR_SETTINGS) + _frame(_WINDOW_UPDATE, 0, 0, window)
        )

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"connection lost: {error}")

    def data_received(self, data: bytes) -> None:
        if self._unparsed:
            data = self._unparsed + data
        at, size = 0, len(data)
        while size - at >= _HEAD:
            end = at + _HEAD + int.from_bytes(data[at : at + 3], "big")
            if end > size:
                break
            kind, flags = data[at + 3], data[at + 4]
            if kind == _DATA:
                stream = int.from_bytes(data[at + 5 : at + _HEAD], "big")
                self._take(stream, data[at + _HEAD : end])
            elif kind != _WINDOW_UPDATE:
                self._control(kind, flags, data[at + _HEAD : end])
            at = end
        self._unparsed = data[at:]

    def _take(self, stream: int, data: bytes) -> None:
        """A DATA frame: messages, or a part of one."""
        if stream in self._parts:
            data = self._parts.pop(stream) + data
        while len(data) >= _MESSAGE_HEAD:
            end = _MESSAGE_HEAD + int.from_bytes(data[1:_MESSAGE_HEAD], "big")
            if len(data) < end:
                break
            self._streams[stream](data[_MESSAGE_HEAD:end])
            data = data[end:]
        if data:
            self._parts[stream] = data

    def _control(self, kind: int, flags: int, body: bytes) -> None:
        if kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._transport.write(_frame(kind, _ACK, 0, body if kind == _PING else b""))
        elif kind in (_RST_STREAM, _GOAWAY):
            self._fail(f"frame {kind}: {body!r}")
        elif kind == _HEADERS and flags & _END_STREAM:
            self._fail(f"trailers: {body!r}")

    def _fail(self, reason: str) -> None:
        if not self._closing and not self.failed.done():
            self.failed.set_exception(StreamEnded(reason))


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return b"".join(
        (len(body).to_bytes(3, "big"), bytes((kind, flags)), stream.to_bytes(4, "big"), body)
    )


def _text(value: bytes) -> bytes:
    """A literal of HPACK, not compressed."""
    assert len(value) < 127
    return bytes([len(value)]) + value


@asynccontextmanager
async def connections(target: str, count: int) -> AsyncIterator[list[Connection]]:
    """Open connections."""
    host, _, port = target.rpartition(":")
    loop = asyncio.get_running_loop()
    opened: list[Connection] = []
    try:
        for _ in range(count):
            _, connection = await loop.create_connection(
                lambda: Connection(target), host, int(port)
            )
            opened.append(connection)
        yield opened
    finally:
        for connection in opened:
            connection.close()
