"""The first key of a deployment: in a file, which whoever may read it has all rights by."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import structlog

from contex_server.access.credentials import Secret, new_key, parse_key
from contex_server.access.directory import GUARD
from contex_server.access.policy import is_administered
from contex_server.access.records import (
    ApiKey,
    Binding,
    Grant,
    Record,
    RecordDamaged,
    decode,
    encode,
)
from contex_server.audit.records import AuditAction, encode_action
from contex_server.kernel.errors import StartupError
from contex_server.kernel.model import SERVICE
from contex_server.kernel.secret_files import create_secret
from contex_server.log.access import AccessStore, Write

log = structlog.get_logger(__name__)

_USUAL_TARGET = "127.0.0.1:50051"
_MOST_NAMED = 20
ADMIN = "admin"
"""The identity of the first key."""
ADMIN_KEY_FILE = "admin.key"
"""Its file, in the data directory of the bundled store."""


class FirstKey(NamedTuple):
    """A key that is new, and where it is kept."""

    path: Path
    secret: Secret

    def story(self, target: str, *, found: bool, shown: bool) -> str:
        """What is printed of it, once.

        Args:
            target: Where this machine reaches the server.
            found: Whether commands find the key in its file by themselves.
            shown: Whether to show it.
        """
        lines = [
            "",
            "The first key of this deployment, which may do everything, is in",
            f"{self.path}:",
            "",
            *([f"    {self.secret.text}", ""] if shown else []),
            "To go on, on this machine:" if found else "To go on:",
            "",
        ]
        if target != _USUAL_TARGET:
            lines.append(f"    export CONTEX_TARGET={target}")
        if not found:
            lines.append(f"    export CONTEX_API_KEY_FILE={self.path}")
        lines += [
            "    contex whoami",
            """    contex publish greetings/first '{"text": "Hello"}' -d "The first greeting\"""",
            "    contex keys create reader --role readonly -p default",
            "",
            *(["It is shown this once."] if shown else []),
            "From other machines: contex login, with the address that the server has there.",
            "",
        ]
        return "\n".join(lines)


async def ensure_admin_key(store: AccessStore, path: Path) -> Secret | None:
    """Sees to it that the deployment has an administrator.

    The key in the file becomes one, unless it is on record. If there is no file, one is made where
    nobody administers the deployment, so that who removes it has another after all was lost.

    Returns:
        The key, if it is new to the store.

    Raises:
        StartupError: The file can't be read, or has no key.
        ContexError: STORE_UNAVAILABLE.
    """
    while True:
        stored = (await store.changed(0)).records
        records = _readable(stored)
        now_ms = time.time_ns() // 1_000_000
        is_missing = not await asyncio.to_thread(path.exists)
        administered = is_administered(records.values(), now_ms)
        if is_missing and administered:
            return None
        secret = await asyncio.to_thread(_read, path)
        key = ApiKey(
            secret.key_id,
            ADMIN,
            "",
            secret.digest,
            name="the first key",
            created_by=SERVICE.identity,
            created_ms=now_ms,
        )
        if stored.get(key.record_name):
            if not administered:
                log.warning(
                    "no_administrator",
                    file=str(path),
                    advice="the key in this file is no administrator's any more, and nobody is: "
                    "remove the file, and start again for another one",
                )
            return None
        writes = {key.record_name: Write(b"", encode(key))}
        binding = Binding(ADMIN, "", (Grant(ADMIN, frozenset({"*"})),), now_ms)
        before = stored.get(binding.record_name) or b""
        if not before or not administered:
            writes[binding.record_name] = Write(before, encode(binding))
            for other in records.values():
                # It gives no rights back to keys that somebody may have kept.
                if isinstance(other, ApiKey) and other.identity == ADMIN and not other.revoked_ms:
                    stored_key = stored[other.record_name] or b""
                    revoked = encode(replace(other, revoked_ms=now_ms))
                    writes[other.record_name] = Write(stored_key, revoked)
        detail = f"created key {key.key_id} of {ADMIN!r}, from the file of the first key"
        note = encode_action(AuditAction.ADMINISTERED, SERVICE, detail)
        if await store.write(writes, note) is not None:
            return secret


async def warn_of_gaps(store: AccessStore) -> None:
    """Logs what an operator should know who asks callers for keys."""
    records = _readable((await store.changed(0)).records)
    if not is_administered(records.values(), time.time_ns() // 1_000_000):
        log.warning(
            "no_administrator",
            advice="nobody may create keys: name a file in CONTEX_ADMIN_KEY_FILE, which is made",
        )
    early = [r.key_id for r in records.values() if isinstance(r, ApiKey) and not r.created_by]
    if early:
        log.warning(
            "keys_made_without_access",
            keys=early[:_MOST_NAMED],
            count=len(early),
            advice="they were made by somebody unknown, while access was off, and are valid: "
            "see contex keys list, and revoke what you don't know",
        )


def _readable(stored: Mapping[str, bytes | None]) -> dict[str, Record]:
    records = {}
    for name, content in stored.items():
        if content and not name.startswith(GUARD):
            with suppress(RecordDamaged):
                records[name] = decode(name, content)
    return records


def _read(path: Path) -> Secret:
    try:
        create_secret(path, new_key().text.encode())
        secret = parse_key(path.read_text().strip())
        is_open = os.name == "posix" and path.stat().st_mode & 0o077
    except (OSError, ValueError) as error:
        raise StartupError(f"can't read the admin key: {error}") from error
    if is_open:
        raise StartupError(f"{path} can be read by others: chmod 600 {path}")
    if secret is None:
        raise StartupError(f"{path} holds no API key: remove it, and another one is made")
    return secret
