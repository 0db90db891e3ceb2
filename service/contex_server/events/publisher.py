"""Publishing: describe, embed, append."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import Append, Appended, Draft, Durability, Origin
from contex_server.log.port import EventLog
from contex_server.matching.describe import INLINE_BYTES, Description, PayloadMalformed, describe
from contex_server.matching.embeddings import Embeddings
from contex_server.tiers.sealer import Sealer


@dataclass(frozen=True, slots=True)
class NewEvent:
    """A fact to publish, within its limits.

    Attributes:
        body: The serialised `contex.v1.Event`, without what only the store knows.
        data_key: See `contex.v1.NewEvent`, like the others.
        subject: Whose data it holds, if it says so.
    """

    body: bytes
    data_key: str
    event_type: str
    payload: bytes
    content_type: str
    description: str
    tombstone: bool
    expected_revision: int | None
    subject: str = ""


class Publisher:
    """Appends facts with the vectors they are matched by."""

    def __init__(
        self,
        log: EventLog,
        embeddings: Embeddings,
        sealer: Sealer,
        pace: Callable[[str, int], Awaitable[None]],
        *appended: Callable[[str], None],
    ) -> None:
        """Creates it.

        Args:
            log: Where facts go.
            embeddings: Makes the vectors.
            sealer: Seals what names a subject.
            pace: Waits until a project may grow by so many events.
            appended: Told of each project that has grown.
        """
        self._log = log
        self._embeddings = embeddings
        self._sealer = sealer
        self._pace = pace
        self._appended = appended

    async def prepare(
        self,
        project: str,
        events: Sequence[NewEvent],
        request_id: str,
        durability: Durability,
        publisher: str,
        origin: Origin,
    ) -> Append:
        """Describes and embeds the events; what it returns is ready for `append`.

        Embedding comes first, so that every replica reads the vector instead of computing
        it; see docs/adr/0003.

        Raises:
            ContexError: PAYLOAD_MALFORMED; MASTER_KEY_MISSING, KEY_UNAVAILABLE,
                STORE_UNAVAILABLE where an event names a subject.
        """
        drafts: list[Draft] = []
        texts: dict[bytes, Description] = {}
        for index, event in enumerate(events):
            digest, body = b"", event.body
            if not event.tombstone:
                if len(event.payload) > INLINE_BYTES:
                    description = await asyncio.to_thread(_describe, index, event)
                else:
                    description = _describe(index, event)
                digest = description.digest()
                texts[digest] = description
                if not description.described:
                    body = event_codec.mark_opaque(body)
            if event.subject:
                body = await self._sealer.seal(project, event.subject, body)
            drafts.append(
                Draft(
                    body,
                    event.data_key,
                    event.expected_revision,
                    event.tombstone,
                    digest,
                    event.event_type,
                )
            )
        model, vectors = await self._embeddings.for_append(project, texts) if texts else ("", {})
        return Append(
            project, tuple(drafts), request_id, durability, vectors, model, publisher, origin
        )

    async def append(self, append: Append) -> Appended:
        """Appends; see `EventLog.append`."""
        await self._pace(append.project, len(append.drafts))
        appended = await self._log.append(append)
        for note in self._appended:
            note(append.project)
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
