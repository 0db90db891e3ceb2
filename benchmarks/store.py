"""The store without Contex: a blocking socket, hiredis, and the log's own commands."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hiredis
from contex.v1 import event_service_pb2
from contex_server.api.events import checks
from contex_server.kernel.config import Limits, Settings
from contex_server.kernel.model import Origin
from contex_server.log.redis.appender import append_command
from contex_server.log.redis.key_names import key
from contex_server.matching.describe import describe

_READ_BYTES = 256 * 1024


class RawStore:
    """One connection. Every reply is checked: an error ends the benchmark."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._reader = hiredis.Reader()

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def send(self, packed: bytes) -> None:
        """Sends a packed command."""
        self._socket.sendall(packed)

    def reply(self) -> Any:
        """Waits for the next reply."""
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(_READ_BYTES))
        if isinstance(reply, hiredis.HiredisError):
            raise reply
        return reply

    def command(self, *parts: Any) -> Any:
        """Sends a command and waits for its reply."""
        self.send(hiredis.pack_command(parts))
        return self.reply()

    def used_memory(self) -> int:
        """Bytes that the store has allocated."""
        text = self.command("INFO", "memory").decode()
        return int(text.partition("used_memory:")[2].split()[0])

    def memory_by_key(self, project: str) -> dict[str, int]:
        """Bytes of a project's keys, by kind: what stands before the second colon."""
        sizes: Counter[str] = Counter()
        start = len(key(project, ""))
        for name in self._keys(project):
            kind = name[start:].decode().partition(":")[0]
            sizes[kind] += self.command("MEMORY", "USAGE", name, "SAMPLES", 0)
        return dict(sizes)

    def entries(self, project: str, kind: str) -> int:
        """How many entries a project's streams have whose kinds begin so."""
        start = key(project, kind).encode()
        names = (name for name in self._keys(project) if name.startswith(start))
        return sum(self.command("XLEN", name) for name in names)

    def _keys(self, project: str) -> list[bytes]:
        found: list[bytes] = self.command("KEYS", key(project, "*"))
        return found

    def forget(self, project: str) -> None:
        """Removes a project that has been measured, so that the store stays small."""
        names = self._keys(project)
        for start in range(0, len(names), 1_000):
            self.command("DEL", *names[start : start + 1_000])
        # Large keys are freed in the background.
        while b"lazyfree_pending_objects:0" not in self.command("INFO", "memory"):
            time.sleep(0.01)

    def pipelined(self, packed: Sequence[bytes], depth: int) -> float:
        """Sends all commands with `depth` unanswered at most; returns the seconds."""
        start = time.perf_counter()
        for command in packed[:depth]:
            self.send(command)
        for command in packed[depth:]:
            self.reply()
            self.send(command)
        for _ in packed[-depth:]:
            self.reply()
        return time.perf_counter() - start

    def scan(self, project: str, page: int = 1_000) -> tuple[int, float]:
        """Reads a project's whole stream by XRANGE; returns the entries and the seconds."""
        start = time.perf_counter()
        count, after = 0, b"-"
        while True:
            rows = self.command("XRANGE", key(project, "events"), after, "+", "COUNT", page)
            count += len(rows)
            if len(rows) < page:
                return count, time.perf_counter() - start
            after = b"(" + rows[-1][0]


@contextmanager
def raw_store(path: Path) -> Iterator[RawStore]:
    """A connection to the store behind a Unix socket."""
    store = RawStore(path)
    try:
        yield store
    finally:
        store.close()


def pack_append(raw_request: bytes) -> bytes:
    """The store's command for a serialised publish, made by the server's own code.

    The describing texts are taken as known: no vectors go along.
    """
    request = event_service_pb2.PublishRequest.FromString(raw_request)
    append = checks.publish(request, _ORIGIN, Limits())
    for event in append.events:
        event.digest = describe(
            event.data_key, event.description, event.payload, event.content_type, event.event_type
        ).digest()
    command = append_command(append.project, [append], _SETTINGS)
    packed: bytes = hiredis.pack_command(command)
    return packed


_SETTINGS = Settings(audit_retention_days=0)
_ORIGIN = Origin(
    "", "ipv4:127.0.0.1:50000", "grpc-python-asyncio/1.85.1 grpc-c/53.0.0 (linux; chttp2)"
)
