"""The state of a project's data at a moment of the past: a fold of its log."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

from contex_server.log.port import EventLog
from contex_server.model import (
    BEGINNING,
    DATA_DELETED,
    Event,
    EventCodec,
    KeyState,
    Sequence,
)
from contex_server.subscriptions.pages import pages

_PAGE_EVENTS = 500
"""Decoding a page holds the event loop for 3 ms."""


async def fold(
    log: EventLog,
    codec: EventCodec,
    project: str,
    until: Sequence,
    progress: Callable[[int, Sequence], None] = lambda _count, _sequence: None,
) -> dict[str, KeyState]:
    """The latest event of every data key as of a sequence, deleted ones left out.

    Reads the log from its beginning, some 100,000 events a second.

    Args:
        log: The log.
        codec: Reads its events.
        project: The project.
        until: Up to and including this event.
        progress: Told how many events have been read, and the last of them.
    """
    state: dict[str, KeyState] = {}
    count = 0
    source = pages(log, project, BEGINNING, until, max_events=_PAGE_EVENTS)
    async with aclosing(source):
        async for page in source:
            for entry in page.entries:
                apply(state, codec.decode(entry))
            count += len(page.entries)
            if page.entries:
                progress(count, page.entries[-1].sequence)
    return state


def apply(state: dict[str, KeyState], event: Event) -> None:
    """Takes one event into the state."""
    if not event.data_key:
        return
    if event.event_type == DATA_DELETED:
        state.pop(event.data_key, None)
    else:
        state[event.data_key] = state_of(event)


def state_of(event: Event) -> KeyState:
    """The state of a data key after an event of it."""
    return KeyState(
        event.data_key,
        event.revision,
        event.sequence,
        event.event_type == DATA_DELETED,
        event.text_digest,
    )
