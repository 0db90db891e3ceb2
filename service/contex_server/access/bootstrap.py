"""The first key of a deployment: in a file, which whoever may read it has all rights by."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import NamedTuple

from contex_server.access.credentials import Secret, new_key, parse_key
from contex_server.access.records import ApiKey, Binding, Grant, encode
from contex_server.audit.records import AuditAction, encode_action
from contex_server.kernel.errors import StartupError
from contex_server.kernel.model import SERVICE
from contex_server.kernel.secret_files import create_secret
from contex_server.log.access import AccessStore, Write

ADMIN = "admin"
"""The identity of the first key."""
ADMIN_KEY_FILE = "admin.key"
"""Its file, in the data directory of the bundled store."""


class FirstKey(NamedTuple):
    """A key that is new, and where it is kept."""

    path: Path
    secret: Secret

    def story(self, target: str) -> str:
        """What is printed of it, once."""
        return f"""
The first key of this deployment may do everything. It is shown this once, and kept in
{self.path}:

    {self.secret.text}

Commands on this machine find it there. To go on:

    contex whoami
    contex publish greetings/first '{{"text": "Hello"}}' -d "The first greeting"
    contex keys create reader --role readonly -p default

Elsewhere: CONTEX_TARGET={target} and CONTEX_API_KEY, or contex login.
"""


async def ensure_admin_key(store: AccessStore, path: Path) -> Secret | None:
    """Sees to it that the key in a file, which is made if it is not there, is an administrator's.

    A key that was revoked stays so: to have another, remove the file.

    Returns:
        The key, if it is new to the store.

    Raises:
        StartupError: The file can't be read, or has no key.
        ContexError: STORE_UNAVAILABLE.
    """
    secret = await asyncio.to_thread(_read, path)
    now_ms = time.time_ns() // 1_000_000
    key = ApiKey(
        secret.key_id,
        ADMIN,
        "",
        secret.digest,
        name="the first key",
        created_by=SERVICE.identity,
        created_ms=now_ms,
    )
    binding = Binding(ADMIN, "", (Grant(ADMIN, frozenset({"*"})),), now_ms)
    note = encode_action(
        AuditAction.ADMINISTERED, SERVICE, f"created key {key.key_id} of {ADMIN!r}"
    )
    while True:
        records = (await store.changed(0)).records
        if records.get(key.record_name):
            return None
        writes = {key.record_name: Write(b"", encode(key))}
        if not records.get(binding.record_name):
            writes[binding.record_name] = Write(b"", encode(binding))
        if await store.write(writes, note) is not None:
            return secret


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
