"""Publishing: describe, embed, append."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from contex_server.events.descriptions import Descriptions
from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.growth import Growth
from contex_server.kernel.model import Append, Appended, NewEvent, Sequence
from contex_server.kernel.slices import Slices
from contex_server.log.port import DescriptionChanged, EventLog, KeyDescription
from contex_server.matching.describe import (
    INLINE_BYTES,
    Described,
    Describer,
    Description,
    describe_anew,
)
from contex_server.matching.embeddings import Embeddings
from contex_server.matching.formats.passages import PayloadMalformed
from contex_server.tiers.encryption import Encryption
from contex_server.tiers.sealer import Sealer

_ATTEMPTS = 16
"""How often an append is sent before it is refused: each time, another one has changed the
description of one of its data."""


class Publisher:
    """Appends facts with the vectors they are matched by.

    Args:
        growth: Slows appends down, and is told of each.
    """

    def __init__(
        self,
        log: EventLog,
        descriptions: Descriptions,
        embeddings: Embeddings,
        sealer: Sealer,
        encryption: Encryption,
        growth: Growth,
    ) -> None:
        self._log = log
        self._descriptions = descriptions
        self._embeddings = embeddings
        self._sealer = sealer
        self._encryption = encryption
        self._growth = growth
        self._describer = Describer()

    async def prepare(self, append: Append) -> Append:
        """Describes and embeds the events of an append, and seals those that name a subject, or
        all.

        Those without a description keep their datum's.

        Embedding comes first, so that every replica reads the vector instead of computing
        it; see docs/adr/0003.

        Raises:
            ContexError: LOG_CHANGED; PAYLOAD_MALFORMED; STORE_UNAVAILABLE, ARCHIVE_UNAVAILABLE;
                MASTER_KEY_MISSING, KEY_UNAVAILABLE where an event is to be sealed.
        """
        await self._growth.admit(append.project)  # Not in `append`, which must keep an order.
        append.encrypted = await self._encryption.holds(append.project)
        for event in append.events:
            if event.carries:
                event.bare = event.body
        await self._descriptions.carry(append)
        await self._describe(append, enumerate(append.events))
        return append

    async def append(self, append: Append, after: Collection[Future[Any]] = ()) -> Appended:
        """Appends; where a description was not what it was taken to be, describes anew and
        repeats. So it does under another request id, always the same, where the caller's is that of
        a publish which it may not see.

        Args:
            after: What is done before it is repeated, so that appends of one lane keep their
                order.

        Raises:
            ContexError: As `EventLog.append` and `prepare`; OVERLOADED if others change the
                descriptions of its data all the time.
        """
        await self._growth.throttle(append.project, len(append.events))
        for attempt in range(_ATTEMPTS):
            try:
                appended = await self._log.append(append)
                if appended.duplicate and not await self._is_seen(append, appended):
                    append.request_id = f"{append.request_id}~{append.scope.digest}"
                    continue
                break
            except DescriptionChanged as changed:
                if after:
                    await asyncio.wait(after)
                # Afterwards the model is too slow for whoever changes them.
                await self._renew(append, changed.actual, embed=not attempt)
            except ContexError:
                if append.encrypted:  # Its key may be gone.
                    self._sealer.forget(append.project)
                raise
        else:
            raise ContexError(
                Reason.OVERLOADED,
                f"the descriptions of its data were changed {_ATTEMPTS} times meanwhile",
                retry_after_ms=250,
            )
        if not appended.duplicate:
            self._descriptions.appended(append)
        self._growth.grown(append.project)
        if append.vectors:
            self._embeddings.appended(append.project, append.model, append.vectors)
        return appended

    async def _is_seen(self, append: Append, appended: Appended) -> bool:
        """Whether a caller may know of a publish that was made before."""
        scope = append.scope
        if scope.is_open:
            return True
        ms, n = appended.first
        places = [Sequence(ms, n + index) for index in range(len(appended.revisions))]
        entries = await self._log.get(append.project, places)
        return all(e is not None and event_codec.is_admitted(e, scope) for e in entries)

    async def _describe(
        self, append: Append, events: Iterable[tuple[int, NewEvent]], *, embed: bool = True
    ) -> None:
        """Describes, embeds and seals events, by their places in the append."""
        texts: dict[bytes, Description] = {}
        lock = None
        if append.encrypted:
            lock = await self._sealer.lock_of(append.project, len(append.events))
        slices = Slices()
        for index, event in events:
            if event.bare and event.description:
                event.body = event_codec.with_description(event.bare, event.description)
            if not event.tombstone:
                if len(event.payload) > INLINE_BYTES:
                    found = await asyncio.to_thread(_described, describe_anew, index, event)
                else:
                    # What is of a person, and will be sealed, is not remembered.
                    anew = describe_anew if event.subject else self._describer.describe
                    found = _described(anew, index, event)
                description, event.digest = found
                texts[event.digest] = description
                if not description.described:
                    event.body = event_codec.mark_opaque(event.body)
                event.payload = b""
            if event.subject:
                event.body = await self._sealer.seal(append.project, event.subject, event.body)
            elif lock is not None:
                event.body = event_codec.seal(event.body, lock)
            if slices.is_over():
                await slices.pause()
        if texts and embed:
            model, vectors = await self._embeddings.for_append(append.project, texts)
            if model == append.model:
                vectors = append.vectors | vectors
            append.model, append.vectors = model, vectors

    async def _renew(
        self, append: Append, actual: Mapping[str, KeyDescription], *, embed: bool
    ) -> None:
        """Prepares an append again with descriptions as they are now."""
        before = [event.description for event in append.events]
        await self._descriptions.carry(append, actual)
        changed = []
        for index, (event, text) in enumerate(zip(append.events, before, strict=True)):
            if event.description != text:
                event.body, event.payload = event.bare, event_codec.payload_of(event.bare)
                changed.append((index, event))
        if changed:
            await self._describe(append, changed, embed=embed)
        if append.lane is not None:
            append.turn = append.lane.turn


def _described(describe: Callable[..., Described], index: int, event: NewEvent) -> Described:
    try:
        return describe(
            event.data_key, event.description, event.payload, event.content_type, event.event_type
        )
    except PayloadMalformed as error:
        raise ContexError(
            Reason.PAYLOAD_MALFORMED,
            f"events[{index}].payload: {error}",
            field=f"events[{index}].payload",
        ) from error
