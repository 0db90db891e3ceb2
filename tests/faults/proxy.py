"""A TCP proxy that can be slow, fall silent, cut connections, or let nobody through."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Proxy:
    """In front of a port of the loopback interface.

    Attributes:
        open: Whether connections are let through; those there are end when it is closed.
        silent: Whether nothing is passed on any more, as if either end had lost its power.
        mute: Whether nothing of what the server says is passed on any more.
        delay_s: How long each piece waits before it goes on.
        cut_after: So many more bytes towards the server are let through, then every
            connection is cut; None: no limit.
        sent: Bytes that went to the server.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.open = True
        self.silent = False
        self.mute = False
        self.delay_s = 0.0
        self.cut_after: int | None = None
        self.sent = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Ends every connection."""
        for writer in list(self._connections):
            writer.transport.abort()

    def close(self) -> None:
        """Lets nobody through any more."""
        self.open = False
        self.cut()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open:
            writer.transport.abort()
            return
        try:
            there, to_there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._connections |= {writer, to_there}
        tasks = [
            asyncio.create_task(self._pipe(reader, to_there, counted=True)),
            asyncio.create_task(self._pipe(there, writer, counted=False)),
        ]
        self._tasks.update(tasks)
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self._tasks.difference_update(tasks)
            for each in (writer, to_there):
                self._connections.discard(each)
                each.transport.abort()

    async def _pipe(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool
    ) -> None:
        with suppress(OSError):
            while piece := await reader.read(16_384):
                if self.silent or (self.mute and not counted):
                    continue
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if counted:
                    self.sent += len(piece)
                    if self.cut_after is not None:
                        self.cut_after -= len(piece)
                        if self.cut_after < 0:
                            self.close()
                            return
                writer.write(piece)
                await writer.drain()
        if not (self.silent or (self.mute and not counted)):
            writer.transport.abort()
