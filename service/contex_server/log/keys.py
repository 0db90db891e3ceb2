"""What sealing and erasure need of the store: the keys of subjects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from contex_server.kernel.model import Sequence


class Erased(NamedTuple):
    """An erasure to be recorded; see `KeyStore.erase`.

    Attributes:
        request_id: Identifies the request; a repeated one is answered as before.
        subject: The subject whose key is destroyed, or "".
        key_id: Id of that key, or b"".
        tombstone: What replaces the key.
        events: Number of erased events.
        latest: The data keys whose latest event is erased, with its sequence.
        event_type: Type of the event that announces the erasure.
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


class KeyStore(Protocol):
    """The wrapped keys of subjects, and erasures. See `EventLog` for errors."""

    async def subject_key(
        self, project: str, subject: str, key_id: bytes, wrapped: bytes
    ) -> tuple[bytes, bytes]:
        """The id and the key in use for a subject; the given ones if it has none yet."""

    async def key_of_subject(self, project: str, subject: str) -> bytes:
        """Id of the key in use for a subject, or b""."""

    async def wrapped_keys(self, project: str, key_ids: Iterable[bytes]) -> dict[bytes, bytes]:
        """Keys by id as they were stored, or the tombstones that replaced them."""

    async def restore_key(self, project: str, subject: str, key_id: bytes, stored: bytes) -> None:
        """Stores a key as it was exported, unless one with its id exists.

        It becomes the key in use for `subject`, unless that is "" or already has one.
        """

    async def erasure(self, project: str, request_id: str) -> tuple[Sequence, int] | None:
        """The answer to an earlier request: sequence of its event, number of events erased."""

    async def erase(self, project: str, erased: Erased) -> Sequence:
        """Records an erasure in one step; returns the sequence of the event that announces it.

        A request that was recorded before changes nothing and is answered again.
        """

    async def rewrite_files(self, project: str) -> bool:
        """Makes the store rewrite its files without removed data; False if it refuses."""
