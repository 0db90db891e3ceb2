"""The keys of archived events that are sealed, beside the segments: a project that is taken over
from the archive alone can be read.

They are wrapped by the master key. An erasure puts in a key's place that it was destroyed, before
it is recorded.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping

import orjson

from contex_server.kernel import event_codec
from contex_server.kernel.model import SUBJECT, Entry
from contex_server.log.keys import KeyStore
from contex_server.tiers.objects import ObjectMissing, Objects
from contex_server.tiers.sealer import is_key

_NAME = re.compile(r".+/keys/[0-9a-f]{16}")
_PROJECT = "project"
"""Whose key it is, where it is no subject's."""


class ArchivedKeys:
    """Keys as objects.

    Args:
        store: Where keys are in use.
        objects: Where they are kept.
    """

    def __init__(self, store: KeyStore, objects: Objects) -> None:
        self._store = store
        self._objects = objects
        self._kept: set[str] = set()

    async def keep(self, project: str, directory: str, sealed: Mapping[bytes, Entry]) -> None:
        """Stores the keys of some events, as the owner of the project's task."""
        fresh = {k: e for k, e in sealed.items() if _name(directory, k) not in self._kept}
        if not fresh:
            return
        for key_id, stored in (await self._store.wrapped_keys(project, fresh)).items():
            subject = event_codec.decode(fresh[key_id]).metadata.get(SUBJECT, "")
            await self._put(directory, key_id, subject, stored)
            self._kept.add(_name(directory, key_id))

    async def destroy(self, directory: str, key_id: bytes, tombstone: bytes) -> None:
        """Puts in a key's place that it was destroyed, as the owner of the project's task."""
        await self._put(directory, key_id, "", tombstone)

    async def _put(self, directory: str, key_id: bytes, subject: str, stored: bytes) -> None:
        used = subject if is_key(stored) else ""
        data = {"subject": used, "key": base64.b64encode(stored).decode()}
        if is_key(stored) and not subject:
            data["of"] = _PROJECT
        await self._objects.put(_name(directory, key_id), orjson.dumps(data))

    async def bring_back(self, project: str, directory: str) -> bool:
        """Puts all keys of a directory in use; returns whether events were sealed that name no
        subject."""
        encrypted = False
        for name in await self._objects.list(f"{directory}/keys/"):
            data = orjson.loads(await self._objects.get(name))
            key_id = name.rpartition("/")[2].encode()
            stored = base64.b64decode(data["key"])
            await self._store.restore_key(project, data["subject"], key_id, stored)
            encrypted |= data.get("of") == _PROJECT
        return encrypted

    async def names(self) -> list[str]:
        """The objects of all keys, also of those that belong to no project of the store."""
        return [name for name in await self._objects.list("") if _NAME.fullmatch(name)]

    async def rewrap(self, name: str, wrap: Callable[[bytes, bytes], bytes | None]) -> bool:
        """Replaces a key by what `wrap` makes of its id and itself, as the owner of the project's
        task; returns whether there was anything to replace."""
        try:
            data = orjson.loads(await self._objects.get(name))
        except ObjectMissing:
            return False
        key_id = name.rpartition("/")[2].encode()
        wrapped = wrap(key_id, base64.b64decode(data["key"]))
        if wrapped is None:
            return False
        data["key"] = base64.b64encode(wrapped).decode()
        await self._objects.put(name, orjson.dumps(data))
        return True

    async def is_outdated(self, name: str, outdated: Callable[[bytes], bool]) -> bool:
        """What `outdated` says of a stored key; False if it is not there any more."""
        try:
            return outdated(base64.b64decode(orjson.loads(await self._objects.get(name))["key"]))
        except ObjectMissing:
            return False

    @staticmethod
    def name(directory: str, key_id: bytes) -> str:
        """The name of a key's object."""
        return _name(directory, key_id)


def _name(directory: str, key_id: bytes) -> str:
    return f"{directory}/keys/{key_id.decode()}"
