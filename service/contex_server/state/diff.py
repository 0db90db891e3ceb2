"""Data of a state with their events, and what changed between two states."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from contex_server.kernel import event_codec
from contex_server.kernel.model import Entry, KeyState
from contex_server.kernel.slices import Slices
from contex_server.log.port import EventLog
from contex_server.state.fold import RecentEntries
from contex_server.state.patch import Patch, PatchOmitted, patch
from contex_server.state.state import State

_FIRST_PART = 16
_MAX_PART = 500
_MAX_EVENTS = 64
"""Keys of a part whose events are read: any of them may be of the largest size."""
_PART_BYTES = 1024 * 1024
_INLINE_BYTES = 64 * 1024
"""Payloads up to this size are compared on the event loop, in less than 1 ms."""


class Datum(NamedTuple):
    """A key of a state, with its latest event if that was requested and can be read."""

    state: KeyState
    entry: Entry | None = None


class Change(NamedTuple):
    """A key that differs between two states; a side is None if it is missing or deleted there."""

    data_key: str
    before: Datum | None
    after: Datum | None
    patch: Patch | None


class ChangeCounts(NamedTuple):
    """Number of keys by kind of change."""

    added: int
    removed: int
    changed: int


async def data_of(
    log: EventLog,
    project: str,
    state: State,
    data_keys: Iterable[str],
    recent: RecentEntries | None = None,
    *,
    events: bool,
) -> AsyncGenerator[Datum, None]:
    """The data of some keys of a state; with `events`, also their events.

    The events come in parts of about 1 MiB; those that `recent` has are not read again.
    """
    states = (latest for key in data_keys if (latest := state.get(key)) is not None)
    count = _FIRST_PART if events else _MAX_PART
    slices = Slices()
    while part := list(islice(states, count)):
        if not events:
            for latest in part:
                yield Datum(latest)
                await slices.pause()
            continue
        entries = await _read_entries(log, project, part, recent)
        count = _next_count(count, len(part), entries)
        for latest, entry in zip(part, entries, strict=True):
            yield Datum(latest, entry)
            await slices.pause()


async def _read_entries(
    log: EventLog, project: str, states: list[KeyState], recent: RecentEntries | None
) -> list[Entry | None]:
    if not recent:
        return await log.get(project, [state.sequence for state in states])
    entries = [recent.get(state) for state in states]
    missing = [state.sequence for state, entry in zip(states, entries, strict=True) if not entry]
    fetched = iter(await log.get(project, missing) if missing else ())
    return [entry or next(fetched) for entry in entries]


def count_changes(base: State, target: State, data_keys: Sequence[str]) -> ChangeCounts:
    """How many of the keys that differ were added, removed and changed."""
    added = sum(1 for key in data_keys if _live(base, key) is None)
    removed = sum(1 for key in data_keys if _live(target, key) is None)
    return ChangeCounts(added, removed, len(data_keys) - added - removed)


async def read_changes(
    log: EventLog,
    project: str,
    base: State,
    target: State,
    data_keys: Iterable[str],
    *,
    events: bool,
    patches: bool,
) -> AsyncGenerator[Change, None]:
    """The changes of keys that differ between two states.

    Args:
        patches: Whether to compare the payloads of keys that are in both states.
    """
    remaining, count = iter(data_keys), _FIRST_PART
    slices = Slices()
    while part := list(islice(remaining, count)):
        pairs = [(_live(base, key), _live(target, key)) for key in part]
        sequences = [
            state.sequence
            for pair in pairs
            if events or (patches and None not in pair)
            for state in pair
            if state is not None
        ]
        fetched = await log.get(project, sequences)
        count = _next_count(count, len(part), fetched)
        entries = dict(zip(sequences, fetched, strict=True))
        for key, pair in zip(part, pairs, strict=True):
            before, after = (
                None if state is None else Datum(state, entries.get(state.sequence))
                for state in pair
            )
            compared = None
            if patches and before is not None and after is not None:
                compared = await _patch(before.entry, after.entry)
            yield Change(key, before, after, compared)
            await slices.pause()


async def _patch(before: Entry | None, after: Entry | None) -> Patch:
    if before is None or after is None:
        return Patch(omitted=PatchOmitted.TRIMMED)
    one, other = event_codec.decode(before), event_codec.decode(after)
    if len(one.payload) + len(other.payload) <= _INLINE_BYTES:
        return patch(one, other)
    return await asyncio.to_thread(patch, one, other)


def _live(state: State, data_key: str) -> KeyState | None:
    latest = state.get(data_key)
    return None if latest is None or latest.deleted else latest


def _next_count(count: int, size: int, entries: list[Entry | None]) -> int:
    """Size of the next part, given the sizes of the entries of this one."""
    total = sum(len(entry.body) for entry in entries if entry is not None)
    return max(1, min(_MAX_EVENTS, 4 * count, _PART_BYTES * size // (total + 1)))
