"""Publishing: describe, embed, append."""

from __future__ import annotations

import asyncio

from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.growth import Growth
from contex_server.kernel.model import Append, Appended, NewEvent
from contex_server.log.port import EventLog
from contex_server.matching.describe import INLINE_BYTES, Description, describe
from contex_server.matching.embeddings import Embeddings
from contex_server.matching.formats.passages import PayloadMalformed
from contex_server.tiers.sealer import Sealer


class Publisher:
    """Appends facts with the vectors they are matched by.

    Args:
        growth: Slows appends down, and is told of each.
    """

    def __init__(
        self, log: EventLog, embeddings: Embeddings, sealer: Sealer, growth: Growth
    ) -> None:
        self._log = log
        self._embeddings = embeddings
        self._sealer = sealer
        self._growth = growth

    async def prepare(self, append: Append) -> Append:
        """Describes and embeds the events of an append, and seals those that name a subject.

        Embedding comes first, so that every replica reads the vector instead of computing
        it; see docs/adr/0003.

        Raises:
            ContexError: PAYLOAD_MALFORMED; MASTER_KEY_MISSING, KEY_UNAVAILABLE,
                STORE_UNAVAILABLE where an event names a subject.
        """
        texts: dict[bytes, Description] = {}
        for index, event in enumerate(append.events):
            if not event.tombstone:
                if len(event.payload) > INLINE_BYTES:
                    description = await asyncio.to_thread(_describe, index, event)
                else:
                    description = _describe(index, event)
                event.digest = description.digest()
                texts[event.digest] = description
                if not description.described:
                    event.body = event_codec.mark_opaque(event.body)
                event.payload = b""
            if event.subject:
                event.body = await self._sealer.seal(append.project, event.subject, event.body)
        if texts:
            append.model, append.vectors = await self._embeddings.for_append(append.project, texts)
        return append

    async def append(self, append: Append) -> Appended:
        """Appends; see `EventLog.append`."""
        await self._growth.throttle(append.project, len(append.events))
        appended = await self._log.append(append)
        self._growth.grown(append.project)
        if append.vectors:
            self._embeddings.appended(append.project, append.model, append.vectors)
        return appended


def _describe(index: int, event: NewEvent) -> Description:
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
