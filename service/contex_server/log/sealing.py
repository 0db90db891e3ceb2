"""What sealing and erasing need of the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from contex_server.kernel.model import Sequence
from contex_server.log.transfer import TransferLog


class Erased(NamedTuple):
    """An erasure, as it is recorded; see `SealingLog.erase`.

    Attributes:
        subject: The subject whose key is destroyed, or "".
        key_id: The key, or b"".
        tombstone: What stands in its place.
        events: How many were erased.
        latest: The data keys whose latest events they are, with their sequences.
        event_type: Of the event that tells it, ...
        body: ... and the event.
        action: A record for the audit.
    """

    request_id: str
    subject: str
    key_id: bytes
    tombstone: bytes
    events: int
    latest: Mapping[str, Sequence]
    event_type: str
    body: bytes
    action: bytes


class SealingLog(TransferLog, Protocol):
    """A log that keeps the keys of subjects."""

    async def subject_key(
        self, project: str, subject: str, key_id: bytes, wrapped: bytes
    ) -> tuple[bytes, bytes]:
        """The key that is in use for a subject, and its id: the ones given, if there is
        none."""
        ...

    async def key_of_subject(self, project: str, subject: str) -> bytes:
        """The id of the key that is in use for a subject, or b""."""
        ...

    async def wrapped_keys(self, project: str, key_ids: Iterable[bytes]) -> dict[bytes, bytes]:
        """Keys by id, as they were stored, or what stands in their place."""
        ...

    async def restore_key(self, project: str, subject: str, key_id: bytes, stored: bytes) -> None:
        """Brings a key back as it was stored, unless one of its id is there, and puts it in use
        for its subject, unless that is "" or has another."""
        ...

    async def erasure(self, project: str, request_id: str) -> tuple[Sequence, int] | None:
        """What a request was answered: the event's sequence, and how many were erased."""
        ...

    async def erase(self, project: str, erased: Erased) -> Sequence:
        """Records an erasure in one step, and returns the sequence of the event that tells it.
        A request that was recorded before is only answered."""
        ...

    async def drop_vectors(self, project: str, model: str, digests: Iterable[bytes]) -> None:
        """Removes encodings."""
        ...

    async def forget_on_disk(self, project: str) -> bool:
        """Lets the store write its files anew, without what it has removed; False if it
        refuses."""
        ...
