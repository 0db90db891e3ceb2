"""The state as it is now, read from what the store keeps of each key instead of the log."""

from __future__ import annotations

from contextlib import aclosing

from contex_server.log.pages import pages
from contex_server.log.port import EventLog
from contex_server.model import BEGINNING, EventCodec, KeyState, Sequence
from contex_server.projections.fold import PAGE_EVENTS, take


async def live(
    log: EventLog, codec: EventCodec, project: str
) -> tuple[Sequence, dict[str, KeyState]]:
    """The state of every key, and the sequence that it is exactly the state as of.

    The keys are read while the log goes on, so some come newer than others. No key comes
    newer than the end of the log after that, and what changed up to there is read from the
    log, over the keys.

    Raises:
        ContexError: SEQUENCE_TRIMMED if the log was trimmed beyond its end as it was;
            STORE_UNAVAILABLE.
    """
    start = (await log.bounds(project)).tail
    state: dict[str, KeyState] = {}
    async for chunk in log.state(project):
        for latest in chunk:
            state[latest.data_key] = latest
    end = (await log.bounds(project)).tail
    if end > start:
        source = pages(log, project, start, end, resumed=start > BEGINNING, max_events=PAGE_EVENTS)
        async with aclosing(source):
            async for page in source:
                take(state, page.entries, codec)
    return end, state
