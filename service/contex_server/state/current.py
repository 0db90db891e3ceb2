"""The state as it is now, read from what the store keeps of each key instead of the log."""

from __future__ import annotations

from contextlib import aclosing

from contex_server.kernel.model import BEGINNING, KeyState, Sequence
from contex_server.log.pages import pages
from contex_server.log.port import EventLog
from contex_server.log.state import StateStore
from contex_server.state.fold import PAGE_EVENTS, take

_AT_ONCE_KEYS = 5_000
"""So many keys the store tells at one moment, in some 2 ms."""


async def live(
    log: EventLog, store: StateStore, project: str
) -> tuple[Sequence, dict[str, KeyState]]:
    """The state of every key, and the sequence that it is exactly the state as of.

    Of many keys, they are read while the log goes on, so some come newer than others. No key comes
    newer than the end of the log after that, and what changed up to there is read from the
    log, over the keys.

    Raises:
        ContexError: SEQUENCE_TRIMMED if the log was trimmed beyond its end as it was;
            STORE_UNAVAILABLE.
    """
    at_once = await store.state_now(project, _AT_ONCE_KEYS)
    if at_once is not None:
        sequence, states = at_once
        return sequence, {state.data_key: state for state in states}
    start = (await log.bounds(project)).tail
    state: dict[str, KeyState] = {}
    async for chunk in store.state(project):
        for latest in chunk:
            state[latest.data_key] = latest
    end = (await log.bounds(project)).tail
    if end > start:
        source = pages(log, project, start, end, resumed=start > BEGINNING, max_events=PAGE_EVENTS)
        async with aclosing(source):
            async for page in source:
                take(state, page.entries)
    return end, state
