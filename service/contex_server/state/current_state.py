"""The current state, from what the store keeps of each key instead of from the log."""

from __future__ import annotations

from contextlib import aclosing

from contex_server.kernel.model import BEGINNING, KeyState, Range, Sequence
from contex_server.log.pages import pages
from contex_server.log.port import EventLog
from contex_server.log.state import StateStore
from contex_server.state.fold import PAGE_EVENTS, fold_entries

_ATOMIC_KEYS = 5_000
"""Maximum number of keys that the store returns atomically, in about 2 ms."""


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
        for latest in chunk:
            state[latest.data_key] = latest
    end = (await log.bounds(project)).tail
    if end > start:
        span, resumed = Range(start, end), start > BEGINNING
        source = pages(log, project, span, resumed=resumed, max_events=PAGE_EVENTS)
        async with aclosing(source):
            async for page in source:
                fold_entries(state, page.entries)
    return end, state
