"""Embeddings by text digest: computed once for each project and text, kept in the log's store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import numpy as np
import structlog
from cachetools import LRUCache
from numpy.typing import NDArray

from contex_server.errors import ContexError, Reason, embedder_unavailable
from contex_server.log.port import EventLog
from contex_server.matching.describe import describe, text_digest
from contex_server.matching.embedder import Embedder, pack, unpack
from contex_server.model import DATA_DELETED, Event, EventCodec

log = structlog.get_logger(__name__)

Vector = NDArray[np.float32]

_CACHED_VECTORS = 20_000
"""30 MB at 384 dimensions."""
_KNOWN_DIGESTS = 200_000


class Embeddings:
    """Finds the vector of a text: in memory, in the store, or from the model."""

    def __init__(
        self, event_log: EventLog, codec: EventCodec, embedder: Embedder, *, timeout_s: float
    ) -> None:
        """Creates it.

        Args:
            event_log: Where vectors are kept.
            codec: Reads events, to describe one whose vector is missing.
            embedder: The model.
            timeout_s: How long a publish waits for the model.
        """
        self._log = event_log
        self._codec = codec
        self._embedder = embedder
        self._timeout_s = timeout_s
        self._vectors: LRUCache[tuple[str, bytes], Vector] = LRUCache(_CACHED_VECTORS)
        self._stored: LRUCache[tuple[str, bytes], bool] = LRUCache(_KNOWN_DIGESTS)

    @property
    def model_id(self) -> str:
        """The embedding model's identity."""
        return self._embedder.model_id

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._embedder.dimension

    def digest(self, text: str) -> bytes:
        """Identifies a text under this model."""
        return text_digest(text, self._embedder.model_id)

    def is_stored(self, project: str, digest: bytes) -> bool:
        """Whether the store is known to have the vector already; False may be wrong."""
        return (project, digest) in self._stored

    async def for_append(self, project: str, texts: Mapping[bytes, str]) -> dict[bytes, bytes]:
        """The packed vectors that an append must bring along, by digest.

        Never fails: if the model is late or broken the event is appended without, and who
        needs the vector first computes it (`of_events`).
        """
        missing = {d: t for d, t in texts.items() if not self.is_stored(project, d)}
        if not missing:
            return {}
        try:
            async with asyncio.timeout(self._timeout_s):
                vectors = await self._find(project, missing)
        except (ContexError, TimeoutError) as error:
            log.warning("embedding_late", project=project, texts=len(missing), error=repr(error))
            return {}
        return {d: pack(v) for d, v in vectors.items() if not self.is_stored(project, d)}

    def appended(self, project: str, digests: Iterable[bytes]) -> None:
        """Remembers that the store has these vectors now."""
        for digest in digests:
            self._stored[project, digest] = True

    async def of_texts(self, project: str, texts: Mapping[bytes, str]) -> dict[bytes, Vector]:
        """The vectors of all these texts, by digest; what was missing is stored.

        Raises:
            ContexError: EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        vectors = await self._find(project, texts)
        fresh = {d: pack(v) for d, v in vectors.items() if not self.is_stored(project, d)}
        if fresh:
            try:
                await self._log.put_vectors(project, fresh)
                self.appended(project, fresh)
            except ContexError as error:
                if error.reason is not Reason.STORE_FULL:
                    raise  # Without room they are not kept, but reads go on.
        return vectors

    async def of_events(self, project: str, events: Iterable[Event]) -> dict[bytes, Vector]:
        """The vectors of these events, by digest; those of the past are in the store.

        Raises:
            ContexError: EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        by_digest = {event.text_digest: event for event in events if event.text_digest}
        vectors = await self.stored(project, by_digest)
        texts = {
            digest: await self._text(project, event)
            for digest, event in by_digest.items()
            if digest not in vectors
        }
        if texts:
            vectors |= await self.of_texts(project, texts)
        return vectors

    async def _text(self, project: str, event: Event) -> str:
        while event.event_type == DATA_DELETED and event.previous_sequence is not None:
            (entry,) = await self._log.get(project, [event.previous_sequence])
            if entry is None:
                break
            event = self._codec.decode(entry)
        return describe_event(event)

    async def stored(self, project: str, digests: Iterable[bytes]) -> dict[bytes, Vector]:
        """What memory or the store has."""
        found: dict[bytes, Vector] = {}
        absent: list[bytes] = []
        for digest in digests:
            vector = self._vectors.get((project, digest))
            if vector is None:
                absent.append(digest)
            else:
                found[digest] = vector
        stored = await self._log.vectors(project, absent)
        if stored:
            rows = unpack(list(stored.values()))
            for digest, vector in zip(stored, rows, strict=True):
                self._stored[project, digest] = True
                self._vectors[project, digest] = found[digest] = vector
        return found

    async def _find(self, project: str, texts: Mapping[bytes, str]) -> dict[bytes, Vector]:
        vectors = await self.stored(project, texts)
        missing = {d: t for d, t in texts.items() if d not in vectors}
        if missing:
            try:
                rows = await self._embedder.embed(list(missing.values()))
            except Exception as error:
                raise embedder_unavailable(error) from error
            for digest, row in zip(missing, rows, strict=True):
                # As the store keeps it, so that every process scores the same.
                vector = unpack(pack(row))[0]
                self._vectors[project, digest] = vectors[digest] = vector
        return vectors


def describe_event(event: Event) -> str:
    """The text that an event of the log is matched by."""
    return describe(
        event.data_key, event.description, event.payload, event.content_type, event.event_type
    )
