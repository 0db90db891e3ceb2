"""An OpenAI-compatible endpoint on loopback that does what a test tells it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

HANG = -1
"""As a status: no answer at all."""
DROP = -2
"""As a status: the connection is closed."""


def vector(text: str) -> list[float]:
    return [float(len(text)), 1.0, -2.0]


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        texts: list[str] = self.body["input"]
        return texts


@dataclass
class Answer:
    status: int = 200
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)


def embeddings(request: Request) -> Answer:
    items = [{"index": i, "embedding": vector(text)} for i, text in enumerate(request.texts)]
    return Answer(body={"data": items[::-1]})  # The order is in the index.


class Endpoint:
    """Answers with what is queued in `answers`, then with what `answer` makes."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answers: deque[Answer | int] = deque()
        self.answer: Callable[[Request], Answer | int] = embeddings
        self.gate = asyncio.Event()
        self.gate.set()
        self.under_way = self.most = 0
        self.url = ""
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def batches(self) -> list[list[str]]:
        return [request.texts for request in self.requests]

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers["content-length"]))
                request = Request(first.split()[1], headers, json.loads(body))
                self.requests.append(request)
                self.under_way += 1
                self.most = max(self.most, self.under_way)
                try:
                    await self.gate.wait()
                finally:
                    self.under_way -= 1
                answer = self.answers.popleft() if self.answers else self.answer(request)
                if isinstance(answer, int):
                    answer = embeddings(request) if answer == 200 else Answer(answer)
                if answer.status == HANG:
                    await asyncio.Event().wait()
                if answer.status == DROP:
                    return
                said = answer.body
                data = said if isinstance(said, bytes) else json.dumps(said).encode()
                extra = "".join(f"{k}: {v}\r\n" for k, v in answer.headers.items())
                length = f"Content-Length: {len(data)}"
                writer.write(f"HTTP/1.1 {answer.status} X\r\n{extra}{length}\r\n\r\n".encode())
                writer.write(data)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def close(self) -> None:
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)


@asynccontextmanager
async def endpoint() -> AsyncIterator[Endpoint]:
    there = Endpoint()
    server = await asyncio.start_server(there.connected, "127.0.0.1", 0)
    there.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield there
    finally:
        server.close()
        await there.close()
