"""What sealing and erasure need of the store: the keys of subjects and of projects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
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
    """The wrapped keys of subjects and projects, and erasures. See `EventLog` for errors."""

    async def subject_key(
        self, project: str, subject: str, key_id: bytes, wrapped: bytes
    ) -> tuple[bytes, bytes]:
        """The id and the key in use for a subject; the given ones if it has none yet."""

    async def project_key(
        self,
        project: str,
        key_id: bytes,
        wrapped: bytes,
        events: int,
        most_events: int,
        most_ms: int,
    ) -> tuple[bytes, bytes]:
        """The id and the key that seals a project's events that name no subject.

        It is the given one if there is none yet, or the one in use would seal more than
        `most_events` or is used for `most_ms`. It is then counted as used for `events`.
        """

    async def is_encrypted(self, project: str) -> bool:
        """Whether events of a project are sealed that name no subject."""

    async def put_encrypted(self, project: str, *, enabled: bool, action: bytes) -> None:
        """Sets whether they are, and adds `action` to the audit. Afterwards, call
        `tell_encryption_changed`."""

    async def encryption_version(self) -> int:
        """Grows whenever `tell_encryption_changed` is called."""

    async def tell_encryption_changed(self) -> None:
        """Lets every process know that it must ask again which projects are encrypted."""

    def all_wrapped_keys(self, count: int) -> AsyncIterator[tuple[str, dict[bytes, bytes]]]:
        """The stored keys and tombstones of every project by id, also of one without events or
        that nobody can name: about `count` at a time, each with its project."""

    def wrapped_keys_of(self, project: str, count: int) -> AsyncIterator[dict[bytes, bytes]]:
        """The same of one project."""

    async def rewrap(self, project: str, keys: Mapping[bytes, tuple[bytes, bytes]]) -> int:
        """Replaces stored keys by others, where they are what they were taken for; returns how
        many were replaced."""

    async def use_master(self, master_id: bytes, process: str, ms: int) -> tuple[bool, set[bytes]]:
        """Notes that a process wraps with a master key for the next `ms`; 0: no longer.

        Returns:
            Whether it wraps all keys, as `note_rotated` says, and the ids of all master keys that
            some process wraps with.
        """

    async def note_rotated(self, master_id: bytes) -> None:
        """Notes that a master key wraps all keys; until a process wraps with another."""

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
