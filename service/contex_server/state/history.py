"""How a datum came to be as it is: its events, newest first, along the links between them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import (
    BEGINNING,
    DATA_DELETED,
    Entry,
    Event,
    KeyState,
    Sequence,
)
from contex_server.kernel.scope import Scope
from contex_server.log.port import EventLog
from contex_server.log.state import StateStore
from contex_server.state.blame import Blame, Part, blame
from contex_server.state.patches import Omitted, Patch, patch
from contex_server.state.snapshots import Snapshots

_STEP_EVENTS = 1_000
_STEP_BYTES = 1024 * 1024
"""What one step of a walk reads at most, about."""
_PAGE_BYTES = 8 * 1024 * 1024
"""What is read for a page, also where it is to hold no payloads."""
_BLAME_EVENTS = 10_000
_BLAME_BYTES = 64 * 1024 * 1024
_BLAME_S = 10.0
_NEAR = 64
"""Revisions this close to a known one are walked to."""
_CHUNK = 50
_INLINE_BYTES = 64 * 1024
"""Revisions that are compared on the event loop in one go: less than 1 ms."""


class Link(NamedTuple):
    """An event of a data key, as it lies in the log and decoded."""

    entry: Entry
    event: Event


class Revision(NamedTuple):
    """An event of a data key, and what leads to it from the one before.

    Attributes:
        patch: None for the first, for a deletion, for a return, and where none was wanted.
    """

    entry: Entry
    event: Event
    patch: Patch | None

    @property
    def patch_bytes(self) -> int:
        """How long its patch is."""
        return self.patch.nbytes if self.patch else 0


class Page(NamedTuple):
    """Some revisions, newest first.

    Attributes:
        next: The one after them; None: there is none that can be read.
        trimmed: Whether there were older ones that can't be read any more.
    """

    revisions: list[Revision]
    next: Sequence | None
    trimmed: bool


class Blamed(NamedTuple):
    """A datum's latest event, and who set what of it.

    Attributes:
        truncated: Whether some of it may have been set before, or some is not told.
    """

    newest: Link
    parts: list[Part]
    truncated: bool


class History:
    """Reads the histories of data keys."""

    def __init__(self, log: EventLog, store: StateStore, snapshots: Snapshots) -> None:
        self._log = log
        self._store = store
        self._snapshots = snapshots

    async def walk(
        self, project: str, start: Sequence, *, most: int = _STEP_EVENTS
    ) -> AsyncGenerator[list[Link], None]:
        """The event at a sequence and those before it of its key, in parts, newest first.

        It ends at the key's first event, and in front of one that can't be read any more.

        Args:
            project: The project.
            start: The newest one.
            most: How many a part has at most.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        at: Sequence | None = start
        while at is not None:
            entries = await self._log.history(project, at, min(most, _STEP_EVENTS), _STEP_BYTES)
            if not entries:
                return
            part = [Link(entry, event_codec.decode(entry)) for entry in entries]
            at = part[-1].event.previous_sequence
            yield part

    async def page(
        self,
        project: str,
        start: Sequence,
        count: int,
        *,
        patches: bool,
        payloads: bool,
        max_bytes: int,
    ) -> Page:
        """The revisions from the one at a sequence on.

        Args:
            project: The project.
            start: The newest one.
            count: At most so many.
            patches: Whether each is compared with the one before.
            payloads: Whether payloads count for `max_bytes`; they are there in any case.
            max_bytes: Payloads and patches together, unless one revision alone has more.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        chain: list[Link] = []
        size, cut = 0, False
        room = max_bytes if payloads else _PAGE_BYTES
        async for part in self.walk(project, start, most=count + 1):
            chain += part
            size += sum(len(link.entry.body) for link in part)
            cut = len(chain) > count or (size > room and len(chain) > 1)
            if cut:
                break
        del chain[count + 1 :]
        # The last is there to be compared with, unless there is none before it.
        whole = chain[:-1] if cut else chain
        found: list[Revision] = []
        held = 0
        for begin in range(0, len(whole), _CHUNK):
            compared = await _compared(chain[begin : begin + _CHUNK + 1], patches=patches)
            for revision in compared[: min(_CHUNK, len(whole) - begin)]:
                held += revision.patch_bytes + (len(revision.entry.body) if payloads else 0)
                if found and held > max_bytes:
                    return Page(found, revision.event.sequence, trimmed=False)
                found.append(revision)
        if cut:
            return Page(found, chain[-1].event.sequence, trimmed=False)
        gone = not chain or chain[-1].event.previous_sequence is not None
        return Page(found, None, trimmed=gone)

    async def revision(self, project: str, data_key: str, revision: int, scope: Scope) -> Revision:
        """One revision of a data key, compared with the one before.

        Raises:
            ContexError: DATA_KEY_NOT_FOUND, also where the reader may not see the key;
                REVISION_NOT_FOUND; SEQUENCE_TRIMMED if it can't be read any more;
                STORE_UNAVAILABLE.
        """
        latest = (await self._store.latest(project, [data_key])).get(data_key)
        if latest is None or not scope.admits(data_key):
            raise data_key_not_found(project, data_key, None)
        if not 1 <= revision <= latest.revision:
            raise ContexError(
                Reason.REVISION_NOT_FOUND,
                f"{data_key!r} has the revisions 1 to {latest.revision}, not {revision}",
                metadata={
                    "data_key": data_key,
                    "revision": str(revision),
                    "actual_revision": str(latest.revision),
                },
            )
        known = await self._nearest(project, latest, revision)
        steps = known.revision - revision
        async for part in self.walk(project, known.sequence, most=steps + 2):
            if steps < len(part):
                link = part[steps]
                chain = part[steps : steps + 2]
                before = link.event.previous_sequence
                if len(chain) == 1 and before is not None:
                    async for older in self.walk(project, before, most=1):
                        chain += older
                        break
                return (await _compared(chain, patches=True))[0]
            steps -= len(part)
        raise await self._gone(project, f"revision {revision} of {data_key!r}")

    async def _gone(self, project: str, what: str) -> ContexError:
        bounds = await self._log.bounds(project)
        earliest = bounds.first or bounds.tail
        return ContexError(
            Reason.SEQUENCE_TRIMMED,
            f"{what} can no longer be read; the earliest event is {earliest}",
            metadata={"earliest_sequence": str(earliest)},
        )

    async def blame(self, project: str, start: Sequence) -> Blamed:
        """Who set what of the datum whose latest event, no deletion, is at a sequence.

        It reads at most 10,000 revisions and 64 MiB, for at most 10 seconds.

        Raises:
            ContexError: SEQUENCE_TRIMMED if not even that event can be read any more;
                STORE_UNAVAILABLE.
        """
        deadline = time.monotonic() + _BLAME_S
        newest: Link | None = None
        blamed: Blame | None = None
        seen = size = 0
        reached = False
        async for part in self.walk(project, start, most=_CHUNK):
            seen += len(part)
            size += sum(len(link.entry.body) for link in part)
            ended = part[-1].event.previous_sequence is None
            if blamed is None:
                newest, *part = part
                blamed = await asyncio.to_thread(blame, newest.event)
            await asyncio.to_thread(_take_all, blamed, part, deadline)
            reached = not blamed.open or (ended and time.monotonic() < deadline)
            if (
                reached
                or seen >= _BLAME_EVENTS
                or size >= _BLAME_BYTES
                or time.monotonic() >= deadline
            ):
                break
        if newest is None or blamed is None:
            raise await self._gone(project, f"event {start}")
        return Blamed(newest, blamed.parts(), truncated=not (reached and blamed.complete))

    async def _nearest(self, project: str, latest: KeyState, revision: int) -> KeyState:
        """The state of a key as of the snapshot that a revision is best walked to from.

        A search by halves between the places of two snapshots. Each step reads one of them.
        """
        low, high, known = BEGINNING, latest.sequence, latest
        while known.revision - revision > _NEAR:
            middle = _between(low, high)
            info = next(iter(await self._snapshots.stored.after(project, middle, 1)), None)
            if info is None or info.sequence >= high:
                # None in the upper half; what is nearest in the lower?
                high = middle
                info = await self._snapshots.stored.before(project, middle)
                if info is None or info.sequence <= low:
                    break
            snapshot = await self._snapshots.read(project, info.sequence)
            state = snapshot.get(latest.data_key) if snapshot is not None else None
            if state is not None and state.revision >= revision:
                known, high = state, info.sequence
            else:
                low = info.sequence
        return known


def _take_all(blamed: Blame, older: list[Link], deadline: float) -> None:
    for link in older:
        if not blamed.open or time.monotonic() >= deadline:
            return
        blamed.take(link.event)


def data_key_not_found(project: str, data_key: str, at: Sequence | None) -> ContexError:
    """A key has no event, or is deleted, as of a sequence."""
    when = "" if at is None else f" as of {at}"
    return ContexError(
        Reason.DATA_KEY_NOT_FOUND,
        f"no datum {data_key!r} in project {project!r}{when}",
        metadata={"data_key": data_key},
    )


async def _compared(chain: list[Link], *, patches: bool) -> list[Revision]:
    """A key's consecutive events, newest first, each with the patch from the next."""
    if not patches:
        return [Revision(entry, event, None) for entry, event in chain]
    work = partial(_compare, chain)
    if sum(len(link.entry.body) for link in chain) <= _INLINE_BYTES:
        await asyncio.sleep(0)
        return work()
    return await asyncio.to_thread(work)


def _compare(chain: list[Link]) -> list[Revision]:
    found = [
        Revision(newer.entry, newer.event, _patch(older.event, newer.event))
        for newer, older in pairwise(chain)
    ]
    if chain:
        entry, event = chain[-1]
        first = event.previous_sequence is None or event.event_type == DATA_DELETED
        found.append(Revision(entry, event, None if first else Patch(omitted=Omitted.TRIMMED)))
    return found


def _patch(before: Event, after: Event) -> Patch | None:
    if DATA_DELETED in (before.event_type, after.event_type):
        return None
    return patch(before, after)


def _between(low: Sequence, high: Sequence) -> Sequence:
    middle = ((low.ms << 64 | low.n) + (high.ms << 64 | high.n)) // 2
    return Sequence(middle >> 64, middle & (2**64 - 1))
