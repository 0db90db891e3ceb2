"""Seals and opens events. See docs/adr/0016.

What is sealed stands first in an event's body, so that one byte tells it: the id of the key, the
nonce and the ciphertext.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from operator import itemgetter

import orjson
from cachetools import TTLCache
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import SEALED_TAG, Entry, Erasure, body_of
from contex_server.log.keys import KeyStore
from contex_server.tiers.master_keys import KEY_BYTES, NONCE_BYTES, MasterKeys

_SEALED = bytes([SEALED_TAG])
_FIRST_BYTE = itemgetter(slice(1))
_ID_CHARS = 16
_HEAD = _ID_CHARS + NONCE_BYTES
_KEY, _TOMBSTONE = b"K", b"E"
"""What a stored key begins with, and what stands in the place of one that was destroyed."""
_CACHED = 10_000
FRESH_S = 1.0
"""An erasure is noticed by every process within this time, at once by the one that did it."""

KEY_EVENTS = 1 << 30
"""How many events a project's key seals at most: a quarter of what it may with random nonces."""
KEY_MS = 30 * 24 * 3600 * 1000
"""For how long a project's key is used."""
_SHARE = 1 << 16
"""A process is given a key for this many events at a time, ..."""
_SHARE_S = 60.0
"""... and asks for it again after this time."""

Lock = Callable[[bytes, bytes], bytes]
"""Encrypts a content, given what it must stay with; see `event_codec.seal`."""


class _Share:
    """What a process may still seal with a project's key."""

    __slots__ = ("events", "lock")

    def __init__(self, events: int, lock: Lock) -> None:
        self.events = events
        self.lock = lock


class Sealer:
    """The keys of all projects, and of their subjects.

    Args:
        store: Where they are kept.
        master: Wraps them; None: nothing can be sealed, and nothing sealed be read.
    """

    def __init__(self, store: KeyStore, master: MasterKeys | None) -> None:
        self._store = store
        self._master = master
        self._keys: TTLCache[tuple[str, bytes], AESGCM | Erasure] = TTLCache(_CACHED, FRESH_S)
        self._shares: TTLCache[str, _Share] = TTLCache(_CACHED, _SHARE_S)
        self._forgotten = 0

    @property
    def can_seal(self) -> bool:
        """Whether events may name a subject, and projects be encrypted."""
        return self._master is not None

    async def lock_of(self, project: str, events: int) -> Lock:
        """What seals the next `events` of a project that name no subject.

        The store refuses to append what was sealed with a key that was destroyed since.

        Raises:
            ContexError: MASTER_KEY_MISSING, KEY_UNAVAILABLE.
        """
        share = self._shares.get(project)
        if share is None or share.events < events:
            if self._master is None:
                raise ContexError(
                    Reason.MASTER_KEY_MISSING,
                    "the project is encrypted, and there is no master key",
                )
            forgotten = self._forgotten
            share = await self._new_share(project, max(events, _SHARE), self._master)
            if forgotten == self._forgotten:
                self._shares[project] = share
        share.events -= events
        return share.lock

    async def _new_share(self, project: str, events: int, master: MasterKeys) -> _Share:
        key_id, fresh = _new_key()
        used, wrapped = await self._store.project_key(
            project, key_id, _KEY + master.wrap(fresh, key_id), events, KEY_EVENTS, KEY_MS
        )
        key = fresh if used == key_id else master.unwrap(wrapped[1:], used)
        return _Share(events, _lock(used, AESGCM(key)))

    async def seal(self, project: str, subject: str, body: bytes) -> bytes:
        """The body of an event, sealed with the key that is in use for a subject.

        Raises:
            ContexError: MASTER_KEY_MISSING, KEY_UNAVAILABLE.
        """
        if self._master is None:
            raise ContexError(
                Reason.MASTER_KEY_MISSING,
                "an event that names a subject is encrypted, and there is no master key",
                field="metadata",
            )
        key_id, fresh = _new_key()
        # Asked each time: a key that was destroyed meanwhile must seal nothing.
        used, wrapped = await self._store.subject_key(
            project, subject, key_id, _KEY + self._master.wrap(fresh, key_id)
        )
        key = AESGCM(fresh if used == key_id else self._master.unwrap(wrapped[1:], used))
        return event_codec.seal(body, _lock(used, key))

    async def open(self, project: str, entries: list[Entry]) -> list[Entry]:
        """Entries as they were before they were sealed; erased and damaged ones say so.

        Raises:
            ContexError: KEY_UNAVAILABLE. Nothing stands for such an event: the key may come back.
        """
        if _SEALED not in map(_FIRST_BYTE, map(body_of, entries)):
            return entries
        ids = [key_id_of(entry) for entry in entries]
        keys = await self._keys_of(project, {key_id for key_id in ids if key_id})

        def unlock(sealed: bytes, bound_to: bytes) -> bytes | Erasure | None:
            key = keys.get(sealed[:_ID_CHARS])
            if key is None:
                raise _unavailable(sealed[:_ID_CHARS], "was encrypted with an unknown key")
            if isinstance(key, Erasure):
                return key
            try:
                return key.decrypt(sealed[_ID_CHARS:_HEAD], sealed[_HEAD:], bound_to)
            except InvalidTag:
                return None

        return [
            event_codec.unseal(entry, unlock) if key_id else entry
            for entry, key_id in zip(entries, ids, strict=True)
        ]

    @property
    def master(self) -> MasterKeys | None:
        """What wraps the keys."""
        return self._master

    def rewrapped(self, key_id: bytes, stored: bytes) -> bytes | None:
        """A stored key as the current master key wraps it; None if it does so already, or the key
        was destroyed.

        Raises:
            ContexError: KEY_UNAVAILABLE.
        """
        if not self.is_outdated(stored):
            return None
        assert self._master is not None
        return _KEY + self._master.wrap(self._master.unwrap(stored[1:], key_id), key_id)

    def is_outdated(self, stored: bytes) -> bool:
        """Whether another master key than the current one wraps a stored key."""
        return (
            self._master is not None and is_key(stored) and not self._master.is_current(stored[1:])
        )

    def forget(self, project: str) -> None:
        """Drops the keys of a project that are at hand."""
        self._forgotten += 1
        self._shares.pop(project, None)
        for place in [place for place in self._keys if place[0] == project]:
            self._keys.pop(place, None)

    async def _keys_of(self, project: str, ids: set[bytes]) -> dict[bytes, AESGCM | Erasure]:
        keys = {key_id: key for key_id in ids if (key := self._keys.get((project, key_id)))}
        missing = ids - keys.keys()
        if missing:
            forgotten = self._forgotten
            for key_id, stored in (await self._store.wrapped_keys(project, missing)).items():
                keys[key_id] = self._read(key_id, stored)
                if forgotten == self._forgotten:  # Or it may have been asked for too early.
                    self._keys[project, key_id] = keys[key_id]
        return keys

    def _read(self, key_id: bytes, stored: bytes) -> AESGCM | Erasure:
        if stored.startswith(_TOMBSTONE):
            return Erasure(*orjson.loads(stored[1:]))
        if self._master is None:
            raise _unavailable(key_id, "can't be read: there is no master key here")
        return AESGCM(self._master.unwrap(stored[1:], key_id))


def _new_key() -> tuple[bytes, bytes]:
    """A key that there never was, with its id."""
    return os.urandom(_ID_CHARS // 2).hex().encode(), os.urandom(KEY_BYTES)


def _lock(key_id: bytes, key: AESGCM) -> Lock:
    def lock(content: bytes, bound_to: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return key_id + nonce + key.encrypt(nonce, content, bound_to)

    return lock


def _unavailable(key_id: bytes, problem: str) -> ContexError:
    return ContexError(
        Reason.KEY_UNAVAILABLE,
        f"an encrypted event {problem}",
        metadata={"key_id": key_id.decode(errors="replace")},
    )


def key_id_of(entry: Entry) -> bytes:
    """The id of the key that an entry is sealed with; b"" if it is not."""
    if entry.body[:1] != _SEALED:
        return b""
    start = 2
    while entry.body[start - 1] > 127:
        start += 1
    return entry.body[start : start + _ID_CHARS]


def is_key(stored: bytes) -> bool:
    """Whether what is stored is a key, and not that it was destroyed."""
    return stored.startswith(_KEY)


def tombstone(erasure: Erasure) -> bytes:
    """What stands in the place of a key that was destroyed."""
    return _TOMBSTONE + orjson.dumps([erasure.unix_ms, erasure.request_id, erasure.reason])
