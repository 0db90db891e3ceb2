"""Reading a range of the log page by page, the next page fetched while one is in use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from operator import itemgetter
from typing import NamedTuple

from contex_server.kernel import event_codec, work
from contex_server.kernel.byte_budget import NO_SHARE, Share, give_up
from contex_server.kernel.errors import ContexError, Reason, log_changed
from contex_server.kernel.model import (
    BEGINNING,
    EVERYTHING,
    Entry,
    EventFilter,
    Proven,
    Range,
    Sequence,
    body_bytes,
)
from contex_server.kernel.scope import EVERYTHING as UNRESTRICTED
from contex_server.kernel.scope import Scope
from contex_server.log.port import READ_BYTES, Bounds, EventLog, Part

_FIRST_PAGE = 64


class Page(NamedTuple):
    """Some consecutive events of a range.

    Attributes:
        entries: In the order of reading; may be empty on the last page.
        last: Whether the range held no more when this page was read.
    """

    entries: list[Entry]
    last: bool


async def pages(
    log: EventLog,
    project: str,
    span: Range,
    *,
    resumed: bool = False,
    max_events: int,
    event_filter: EventFilter = EVERYTHING,
) -> AsyncGenerator[Page, None]:
    """Reads a range until it is exhausted. Leaves out what is known to hold nothing that
    passes the filter; what is read need not pass.

    With `resumed`, `span.after` has been read already, and a gap behind it is refused too.

    A page ends with the event with which it has `READ_BYTES`. About as much again is held with the
    page that is fetched ahead. Both count against what all readers may hold, `log.reading`: a page
    from before it is fetched until the next one is asked for.

    A stream whose call owes for what it has read waits between pages (`kernel/work.py`).

    Raises:
        ContexError: SEQUENCE_TRIMMED if, forwards, the log was trimmed beyond what was read.
    """

    async def fetch(span: Range, count: int, before: int | None) -> tuple[list[Entry], Range]:
        """A page, and what is left of the range then. `before` is the size of the event that was
        read before it, which is `span.after`; None if none was."""
        part = span
        if not event_filter.is_open:
            part = await log.narrow(project, span, event_filter)
            if before is not None and part.after != span.after > BEGINNING and not span.backwards:
                check_readable(await log.bounds(project), span.after)
                before = None
        entries, ended = await read(part, count, before)
        if not ended:
            return entries, span.rest(entries[-1].sequence)
        if span.backwards:
            return entries, span._replace(until=part.after)
        return entries, span._replace(after=part.until)

    async def read(span: Range, count: int, before: int | None) -> Part:
        after = span.after
        if span.backwards or before is None or after == BEGINNING:
            return await log.read_part(project, span, count, READ_BYTES)
        # Together with the event that was read last: while that one is there, none behind
        # it can be missing. Checked in the same read, so a log that is being trimmed in
        # front of a slow reader makes no gap.
        with_it, room = Range(after.prev(), span.until), READ_BYTES + before
        while True:
            part = await log.read_part(project, with_it, count + 1, room)
            if not part.entries or part.entries[0].sequence != after:
                check_readable(await log.bounds(project), after)
                return part
            if part.ended or len(part.entries) > 1:
                return part._replace(entries=part.entries[1:])
            room *= 4  # It is larger in the store, where it is sealed.

    async def fetch_counted(
        span: Range, count: int, before: int | None
    ) -> tuple[list[Entry], int, Range, Share]:
        share = await log.reading.take(READ_BYTES, project)
        try:
            entries, rest = await fetch(span, count, before)
            nbytes = body_bytes(entries)
            share.resize(nbytes)
        except BaseException:
            share.give_back()
            raise
        return entries, nbytes, rest, share

    count = min(_FIRST_PAGE, max_events)
    before = 0 if resumed else None
    share = NO_SHARE
    ahead: asyncio.Task[tuple[list[Entry], int, Range, Share]] | None = None
    try:
        while True:
            share.give_back()
            if ahead is None:
                await work.pace()
                ahead = asyncio.create_task(fetch_counted(span, count, before))
            entries, nbytes, span, share = await ahead
            ahead = None
            if span.is_empty:
                yield Page(entries, last=True)
                return
            if entries:
                size = nbytes // len(entries) + 64
                count = max(1, min(max_events, READ_BYTES // size, count * 8))
            before = len(entries[-1].body) if entries else before or 0
            if not work.must_wait():
                ahead = asyncio.create_task(fetch_counted(span, count, before))
            if entries:
                yield Page(entries, last=False)
    finally:
        share.give_back()
        if ahead is not None:
            await give_up(ahead, itemgetter(-1))


def check_readable(bounds: Bounds, position: Sequence) -> None:
    """Refuses a position that has no gapless continuation.

    Raises:
        ContexError: SEQUENCE_TRIMMED, SEQUENCE_IN_FUTURE.
    """
    check_not_beyond(bounds, position)
    check_not_deleted(bounds, position)
    # Conservative by one: a reader that stands exactly on the last trimmed event has
    # missed nothing, but that can't be told from what the store keeps.
    earliest = bounds.first or bounds.tail
    if bounds.trimmed and BEGINNING < position < earliest:
        raise ContexError(
            Reason.SEQUENCE_TRIMMED,
            f"events after {position} can no longer be read; the earliest is {earliest}",
            metadata={"earliest_sequence": str(earliest)},
        )


async def check_same_log(
    log: EventLog,
    project: str,
    bounds: Bounds,
    position: Sequence,
    *,
    readable: bool = True,
    scope: Scope = UNRESTRICTED,
) -> None:
    """Refuses a position that has no gapless continuation, or is of another log than this.

    Args:
        bounds: Those of the log.
        readable: Whether what follows is to be read, forwards.
        scope: What the caller may see. Of an event that it may not, a position proves nothing,
            rightly or wrongly: it may have been given when the caller had other rights.

    Raises:
        ContexError: LOG_CHANGED; SEQUENCE_TRIMMED, SEQUENCE_IN_FUTURE.
    """
    proof = position.proof if isinstance(position, Proven) else None
    if proof is not None and position > bounds.tail:
        raise log_changed(project, position, bounds.tail)
    (check_readable if readable else check_not_beyond)(bounds, position)
    removed = bounds.trimmed and (bounds.first is None or position < bounds.first)
    if proof is None or removed or position <= bounds.deleted:
        return
    (entry,) = await log.get(project, [position])
    if entry is not None and not event_codec.is_admitted(entry, scope):
        return
    if entry is None and readable:
        check_readable(await log.bounds(project), position)  # It may have been removed just now.
    if entry is None or (proof and event_codec.proof(entry) not in (b"", proof)):
        raise log_changed(project, position, bounds.tail)


def check_not_deleted(bounds: Bounds, position: Sequence) -> None:
    """Refuses a position of an earlier project of the name, which was deleted.

    Raises:
        ContexError: SEQUENCE_TRIMMED.
    """
    if BEGINNING < position < bounds.deleted:
        raise ContexError(
            Reason.SEQUENCE_TRIMMED,
            f"{position} is of a project that was deleted; the one that has its name now begins "
            f"after {bounds.deleted}",
            metadata={"earliest_sequence": str(bounds.first or bounds.tail)},
        )


def check_not_beyond(bounds: Bounds, position: Sequence) -> None:
    """Refuses a position that there is not yet.

    Raises:
        ContexError: SEQUENCE_IN_FUTURE.
    """
    if position > bounds.tail:
        raise ContexError(
            Reason.SEQUENCE_IN_FUTURE,
            f"{position} is beyond the end of the log, {bounds.tail}",
            metadata={"tail_sequence": str(bounds.tail)},
        )
