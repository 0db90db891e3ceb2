"""The store without Contex: a blocking socket, hiredis, and the log's own commands."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hiredis
from contex.v1 import event_service_pb2
from contex_server.config import Limits
from contex_server.log.connections import connect
from contex_server.log.redis import RedisLog, key
from contex_server.matching.describe import describe
from contex_server.model import Append, Draft
from contex_server.rpc import validate

_READ_BYTES = 256 * 1024
_KINDS = ("events", "state", "vectors", "agents", "cursors", "requests:0", "requests:1")


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
        """Bytes of each of a project's keys."""
        sizes = {
            kind: self.command("MEMORY", "USAGE", key(project, kind), "SAMPLES", 0)
            for kind in _KINDS
        }
        return {kind: size for kind, size in sizes.items() if size}

    def forget(self, project: str) -> None:
        """Removes a project that has been measured, so that the store stays small."""
        self.command("DEL", *(key(project, kind) for kind in _KINDS))
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
    checked = validate.publish(event_service_pb2.PublishRequest.FromString(raw_request), Limits())
    drafts = tuple(
        Draft(
            event.body,
            event.data_key,
            event.expected_revision,
            event.tombstone,
            describe(
                event.data_key,
                event.description,
                event.payload,
                event.content_type,
                event.event_type,
            ).digest(),
        )
        for event in checked.events
    )
    append = Append(checked.project, drafts, checked.request_id, checked.durability)
    packed: bytes = hiredis.pack_command(_BUILDER._fcall_append(checked.project, [append]))
    return packed


# Never connects: only its command builder is used.
_BUILDER = RedisLog(connect("unix:///nowhere"))
