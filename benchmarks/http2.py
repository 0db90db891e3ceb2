"""Server streams on bare HTTP/2: subscribers that cost the machine next to nothing.

A subscription of grpc.aio costs its client 60 to 80 µs a message, which is more than it costs
the server. A hundred agents have that spread over a hundred machines; a benchmark has all of
them in one process beside the server, and would measure itself. With h2 a message costs some 20.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ssl import SSLContext
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

OnMessage = Callable[[bytes], None]
Metadata = Sequence[tuple[str, str]]

_MESSAGE_HEAD = 5
"""gRPC's own: a flag and the length."""
_MAX_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_SETTINGS = {SettingCodes.INITIAL_WINDOW_SIZE: _MAX_WINDOW, SettingCodes.MAX_FRAME_SIZE: 2**24 - 1}


class ConnectionEnded(Exception):
    """The server ended a stream or the connection."""


class Connection(asyncio.Protocol):
    """One connection with any number of server streams.

    Its windows are opened to 2 GiB at the start and not again: a benchmark sends less.
    """

    def __init__(self, authority: str, metadata: Metadata = ()) -> None:
        self._authority = authority
        self._metadata = metadata
        self._http = H2Connection(H2Configuration(validate_inbound_headers=False))
        self._streams: dict[int, OnMessage] = {}
        self._parts: dict[int, bytes] = {}
        self._closing = False
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets the exception if the server ends anything."""

    def subscribe(self, method: str, request: bytes, on_message: OnMessage) -> None:
        """Starts a call; every message goes to `on_message`."""
        stream = self._http.get_next_available_stream_id()
        self._streams[stream] = on_message
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", self._authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *self._metadata,
        ]
        self._http.send_headers(stream, headers)
        message = b"\0" + len(request).to_bytes(4, "big") + request
        self._http.send_data(stream, message, end_stream=True)
        self._send()

    def close(self) -> None:
        """Closes the connection and with it every stream."""
        self._closing = True
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._http.initiate_connection()
        self._http.update_settings(_SETTINGS)
        self._http.increment_flow_control_window(_MAX_WINDOW - _DEFAULT_WINDOW)
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"connection lost: {error}")

    def data_received(self, data: bytes) -> None:
        try:
            for event in self._http.receive_data(data):
                if isinstance(event, DataReceived):
                    self._take(event.stream_id, event.data)
                elif isinstance(event, StreamEnded | StreamReset | ConnectionTerminated):
                    self._fail(str(event))
        except ProtocolError as error:
            self._fail(str(error))
        self._send()

    def _take(self, stream: int, data: bytes) -> None:
        """Part of a stream: messages, the last of which may be cut off."""
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

    def _send(self) -> None:
        if pending := self._http.data_to_send():
            self._transport.write(pending)

    def _fail(self, reason: str) -> None:
        if not self._closing and not self.failed.done():
            self.failed.set_exception(ConnectionEnded(reason))


@asynccontextmanager
async def connections(
    target: str, count: int, metadata: Metadata = (), context: SSLContext | None = None
) -> AsyncIterator[list[Connection]]:
    """Open connections, whose calls carry the metadata; over TLS, with a context."""
    host, _, port = target.rpartition(":")
    loop = asyncio.get_running_loop()
    opened: list[Connection] = []
    try:
        for _ in range(count):
            _, connection = await loop.create_connection(
                lambda: Connection(target, metadata),
                host,
                int(port),
                ssl=context,
                server_hostname="localhost" if context else None,
            )
            opened.append(connection)
        yield opened
    finally:
        for connection in opened:
            connection.close()
