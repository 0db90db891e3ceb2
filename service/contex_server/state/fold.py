"""The fold of a log: every data key's latest event, also if that is a deletion.

Deleted keys stay in a fold: their revisions continue to count when they return. The current state
comes from what the store keeps of each key instead of from the log.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing

from contex_server.kernel import event_codec
from contex_server.kernel.model import (
    BEGINNING,
    Entry,
    Event,
    KeyState,
    Range,
    Sequence,
)
from contex_server.log.pages import pages
from contex_server.log.port import EventLog
from contex_server.log.state import StateStore

PAGE_EVENTS = 500
"""Folding a page holds the event loop for 2 ms."""
_ATOMIC_KEYS = 5_000
"""Maximum number of keys that the store returns atomically, in about 2 ms."""
_RECENT_BYTES = 8 * 1024 * 1024


class RecentEntries:
    """The latest entries that a fold came across, so that they need not be read again.

    For one request only: an entry must not outlive the erasure of its payload.

    Args:
        max_bytes: Maximum size; further entries are not kept.
    """

    def __init__(self, max_bytes: int = _RECENT_BYTES) -> None:
        self._entries: dict[str, Entry] = {}
        self._room = max_bytes

    def __bool__(self) -> bool:
        return bool(self._entries)

    def put(self, data_key: str, entry: Entry) -> None:
        """Keeps an entry, if there is room, in place of the key's earlier one."""
        previous = self._entries.pop(data_key, None)
        if previous is not None:
            self._room += len(previous.body)
        if len(entry.body) <= self._room:
            self._room -= len(entry.body)
            self._entries[data_key] = entry

    def get(self, state: KeyState) -> Entry | None:
        """The key's latest entry, if it was kept."""
        entry = self._entries.get(state.data_key)
        return entry if entry is not None and entry.sequence == state.sequence else None


def fold_entries(
    state: dict[str, KeyState], entries: Iterable[Entry], recent: RecentEntries | None = None
) -> None:
    """Applies events to a state, in the order of the log; about 400,000 a second."""
    read = event_codec.key_state
    for entry in entries:
        latest = read(entry)
        if latest is not None:
            state[latest.data_key] = latest
            if recent is not None:
                recent.put(latest.data_key, entry)


def key_state_of(event: Event) -> KeyState:
    """The state of a data key after an event of it."""
    return KeyState(
        event.data_key,
        event.revision,
        event.sequence,
        event.deletes,
        event.text_digest,
    )


async def read_current_state(
    log: EventLog, store: StateStore, project: str
) -> tuple[Sequence, dict[str, KeyState]]:
    """The state of every key, and the sequence that it is as of.

    If there are many keys, the log goes on while they are read, so that some come newer than
    others, but none newer than the end of the log afterwards. Folding the log up to there over
    the keys gives the state at that sequence.

    Raises:
        ContexError: SEQUENCE_TRIMMED if the log was trimmed meanwhile, beyond what was its end.
    """
    atomic = await store.state_now(project, _ATOMIC_KEYS)
    if atomic is not None:
        sequence, states = atomic
        return sequence, {state.data_key: state for state in states}
    start = (await log.bounds(project)).tail
    state: dict[str, KeyState] = {}
    async for chunk in store.state(project):
        state.update((latest.data_key, latest) for latest in chunk)
    end = (await log.bounds(project)).tail
    if end > start:
        span, resumed = Range(start, end), start > BEGINNING
        source = pages(log, project, span, resumed=resumed, max_events=PAGE_EVENTS)
        async with aclosing(source):
            async for page in source:
                fold_entries(state, page.entries)
    return end, state
