"""The latest event of every key, and snapshots, on Redis or Valkey.

state          hash: data key -> latest revision, sequence, mark and digest
snapshots      stream: the snapshots, by the sequence they are as of
snapshot-data  hash: that sequence -> the snapshot
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failures import Failures
from contex_server.kernel.model import KeyState, Range, Sequence
from contex_server.kernel.slices import sliced
from contex_server.log.redis.client import Facet
from contex_server.log.redis.key_names import key, parse_sequence
from contex_server.log.state import SnapshotInfo, SnapshotStore, StateStore

_SCAN_COUNT = 1_000
_failures = Failures("state_damaged")


class RedisState(Facet, StateStore):
    async def state(self, project: str) -> AsyncIterator[list[KeyState]]:
        async for chunk in self._client.scan(project, "state", _SCAN_COUNT):
            yield list(self._key_states(project, chunk))

    async def state_now(
        self, project: str, max_keys: int
    ) -> tuple[Sequence, list[KeyState]] | None:
        reply = await self._client.call_read_only(
            project, "contex1_state_now", ("events", "state"), max_keys
        )
        if reply is None:
            return None
        newest, fields = reply
        named = self._key_states(project, zip(fields[::2], fields[1::2], strict=True))
        return parse_sequence(newest), [state async for state in sliced(named)]

    async def live_keys(self, project: str) -> int:
        keys, deleted = await self._client.run(
            project,
            ("HLEN", key(project, "state")),
            ("HGET", key(project, "stats"), "deleted"),
        )
        return int(keys) - int(deleted or 0)

    async def latest(self, project: str, data_keys: Iterable[str]) -> dict[str, KeyState]:
        keys = list(data_keys)
        if not keys:
            return {}
        values = await self._client.command(project, "HMGET", "state", *keys)
        told = zip((name.encode() for name in keys), values, strict=True)
        found = self._key_states(project, (pair for pair in told if pair[1] is not None))
        return {state.data_key: state for state in found}

    def _key_states(
        self, project: str, fields: Iterable[tuple[bytes, bytes]]
    ) -> Iterator[KeyState]:
        """The states in fields of the hash. One that is damaged is passed over, as if the key had
        no event; `verify` finds it missing and can repair it from the log."""
        for name, value in fields:
            try:
                yield _key_state(name, value)
            except ValueError:
                told = "the stored state of a data key can't be read: verify the project"
                _failures.failed(project, ContexError(Reason.INTERNAL, told))

    async def repair_state(
        self,
        project: str,
        expected: Sequence,
        states: Mapping[str, KeyState | None],
        deleted: int | None,
    ) -> bool:
        arguments: list[Any] = [str(expected), "" if deleted is None else deleted]
        for name, state in states.items():
            arguments += (
                name,
                b""
                if state is None
                else state_value(
                    state.revision, str(state.sequence).encode(), state.deleted, state.digest
                ),
            )
        return await self._client.attempt(
            project, "contex1_repair_state", ("events", "state", "stats"), *arguments
        )


class RedisSnapshots(Facet, SnapshotStore):
    async def put(self, project: str, info: SnapshotInfo, snapshot: bytes) -> bool:
        return await self._client.attempt(
            project,
            "contex1_snapshot",
            ("snapshots", "snapshot-data", "stats"),
            str(info.sequence),
            snapshot,
            f"{info.events} {info.bytes} {info.keys}",
        )

    async def before(self, project: str, until: Sequence) -> SnapshotInfo | None:
        span = Range(until=until, backwards=True)
        rows = await self._client.read(project, "snapshots", span, 1)
        return _snapshot_info(rows[0]) if rows else None

    async def after(self, project: str, after: Sequence, count: int) -> list[SnapshotInfo]:
        rows = await self._client.read(project, "snapshots", Range(after), count)
        return [_snapshot_info(row) for row in rows]

    async def get(self, project: str, sequence: Sequence) -> bytes | None:
        snapshot: bytes | None = await self._client.command(
            project, "HGET", "snapshot-data", str(sequence)
        )
        return snapshot

    async def drop(self, project: str, sequence: Sequence) -> None:
        await self._client.commands(
            project, ("HDEL", "snapshot-data", str(sequence)), ("XDEL", "snapshots", str(sequence))
        )

    async def drop_until(self, project: str, until: Sequence) -> int:
        kinds = ("snapshots", "snapshot-data")
        return int(await self._client.call(project, "contex1_drop_snapshots", kinds, str(until)))


def state_value(revision: int, sequence: bytes, deleted: bool, digest: bytes) -> bytes:
    """A value of the state hash; see functions/common.lua."""
    return b"%d %b %b%b" % (revision, sequence, b"D" if deleted else b"L", digest)


def _key_state(name: bytes, value: bytes) -> KeyState:
    revision, sequence, rest = value.split(b" ", 2)
    return KeyState(
        name.decode(), int(revision), parse_sequence(sequence), rest[:1] == b"D", rest[1:]
    )


def _snapshot_info(row: Any) -> SnapshotInfo:
    place, fields = row
    events, size, keys, stored = map(int, fields[1].split(b" "))
    return SnapshotInfo(parse_sequence(place), events, size, keys, stored)
