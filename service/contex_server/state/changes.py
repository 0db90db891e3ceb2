"""The events behind a state, fetched in parts of bounded size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from contex_server.kernel import event_codec
from contex_server.kernel.model import Entry, KeyState
from contex_server.log.port import EventLog
from contex_server.state.patches import Omitted, Patch, patch
from contex_server.state.state import State

_FIRST_PART = 16
_MOST = 500
_PART_BYTES = 1024 * 1024
_INLINE_BYTES = 64 * 1024
"""What is compared on the event loop in one go: less than 1 ms."""


class Datum(NamedTuple):
    """A key of a state, with its latest event where that was wanted and can be read."""

    state: KeyState
    entry: Entry | None = None


class Change(NamedTuple):
    """A key that differs between two states; None where it is not there, or deleted."""

    data_key: str
    before: Datum | None
    after: Datum | None
    patch: Patch | None


class Counts(NamedTuple):
    """How many keys of a diff are which."""

    added: int
    removed: int
    changed: int


async def with_events(
    log: EventLog, project: str, states: Iterable[KeyState]
) -> AsyncGenerator[Datum, None]:
    """The data of some keys, with their events; about 1 MiB of them is held at a time.

    Raises:
        ContexError: STORE_UNAVAILABLE.
    """
    remaining, count = iter(states), _FIRST_PART
    while part := list(islice(remaining, count)):
        entries = await log.get(project, [state.sequence for state in part])
        count = _next_count(count, len(part), entries)
        for state, entry in zip(part, entries, strict=True):
            yield Datum(state, entry)


def count_changes(base: State, target: State, data_keys: Sequence[str]) -> Counts:
    """How many of the keys that differ were added, removed and changed."""
    added = sum(1 for key in data_keys if _there(base, key) is None)
    removed = sum(1 for key in data_keys if _there(target, key) is None)
    return Counts(added, removed, len(data_keys) - added - removed)


async def changes(
    log: EventLog,
    project: str,
    base: State,
    target: State,
    data_keys: Iterable[str],
    *,
    events: bool,
    patches: bool,
) -> AsyncGenerator[Change, None]:
    """What keys that differ were and are.

    Args:
        log: The log.
        project: The project.
        base: What was.
        target: What is.
        data_keys: The keys.
        events: Whether their events are wanted.
        patches: Whether those that were and are there are compared.

    Raises:
        ContexError: STORE_UNAVAILABLE.
    """
    remaining, count = iter(data_keys), _FIRST_PART
    while part := list(islice(remaining, count)):
        pairs = [(_there(base, key), _there(target, key)) for key in part]
        wanted = [
            state.sequence
            for pair in pairs
            if events or (patches and None not in pair)
            for state in pair
            if state is not None
        ]
        entries = await log.get(project, wanted)
        count = _next_count(count, len(part), entries)
        found = dict(zip(wanted, entries, strict=True))
        for key, pair in zip(part, pairs, strict=True):
            before, after = (
                None if state is None else Datum(state, found.get(state.sequence)) for state in pair
            )
            compared = None
            if patches and before is not None and after is not None:
                compared = await _patch(before.entry, after.entry)
            yield Change(key, before, after, compared)


async def _patch(before: Entry | None, after: Entry | None) -> Patch:
    if before is None or after is None:
        return Patch(omitted=Omitted.TRIMMED)
    one, other = event_codec.decode(before), event_codec.decode(after)
    if len(one.payload) + len(other.payload) <= _INLINE_BYTES:
        return patch(one, other)
    return await asyncio.to_thread(patch, one, other)


def _there(state: State, data_key: str) -> KeyState | None:
    found = state.get(data_key)
    return None if found is None or found.deleted else found


def _next_count(count: int, size: int, entries: list[Entry | None]) -> int:
    """How many are fetched next, by how large these were."""
    held = sum(len(entry.body) for entry in entries if entry is not None)
    return max(1, min(_MOST, 4 * count, _PART_BYTES * size // (held + 1)))
