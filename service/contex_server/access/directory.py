"""All records of access in memory, kept up to date, so that deciding asks nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog

from contex_server.access.policy import Policy
from contex_server.access.records import (
    ApiKey,
    Binding,
    Record,
    RecordDamaged,
    Role,
    Tenant,
    decode,
)
from contex_server.access.roles import Permission
from contex_server.kernel.errors import ContexError
from contex_server.kernel.failures import Failures
from contex_server.kernel.principal import Credential, Principal
from contex_server.kernel.scope import NOTHING, Scope
from contex_server.kernel.slices import sliced
from contex_server.log.access import ACCESS, AccessStore

log = structlog.get_logger(__name__)

_LISTEN = frozenset({int(Permission.LISTEN)})
REFRESH_S = 0.5
"""How often each server asks what changed: a change holds everywhere within 2 s, with room for a
store that is slow to answer."""
GUARD = "guard/"
"""Names of records that only show whether others of a kind have changed."""
_TENANT = "tenant/"
_USES_S = 10.0
"""How often it is noted when keys were used."""


class Directory:
    """Keys, bindings, roles and tenants, as of the last look at the store.

    Attributes:
        policy: What decides. Another one takes its place when a record changes.
        version: The version of the store that it is of.
    """

    def __init__(self, store: AccessStore) -> None:
        self._store = store
        self._records: dict[str, Record] = {}
        self._keys: dict[str, ApiKey] = {}
        self._stored: dict[str, bytes] = {}
        self._unknown: set[str] = set()
        """Tenants that can't be read."""
        self._watchers: list[Callable[[], None]] = []
        self._used: dict[str, int] = {}
        self._uses_at = time.monotonic()
        self._failures = Failures("access_not_refreshed")
        self._looking = asyncio.Lock()
        self.policy = Policy()
        self.version = 0

    def watch(self, watcher: Callable[[], None]) -> None:
        """Calls something after each change."""
        self._watchers.append(watcher)

    def stored(self, record_name: str) -> bytes:
        """A record as it is stored; b"" if there is none."""
        return self._stored.get(record_name, b"")

    def key(self, key_id: str) -> ApiKey | None:
        """A key by its id."""
        return self._keys.get(key_id)

    def all_keys(self) -> list[ApiKey]:
        """All keys, in the order of their ids."""
        return [key for _, key in sorted(self._keys.items())]

    def listens_to(self, identity: str, groups: frozenset[str], project: str) -> Scope:
        """What an identity, with some groups, may listen to in a project."""
        principal = Principal(identity, credential=Credential.TOKEN, groups=groups)
        scope = self.policy.scope(principal, _LISTEN, project)
        return NOTHING if scope is None else scope

    def used(self, key_id: str) -> None:
        """Notes that a key was used, now and then."""
        self._used[key_id] = int(time.time() * 1000)

    async def refresh(self) -> None:
        """Reads what is new.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        async with self._looking:
            changed = await self._store.changed(self.version)
            if changed.version == self.version:
                return
            records, stored = dict(self._records), dict(self._stored)
            unknown = set(self._unknown)
            if changed.version < self.version:
                # The store is another one, or an older copy: what it does not have is gone.
                changed = await self._store.changed(0)
                records, stored, unknown = {}, {}, set()
            async for name, content in sliced(changed.records.items()):
                before = records.pop(name, None)
                stored.pop(name, None)
                unknown.discard(name)
                if content is None:
                    continue
                stored[name] = content
                if name.startswith(GUARD):
                    continue
                try:
                    records[name] = decode(name, content)
                except RecordDamaged as error:
                    log.error("access_record_damaged", record=name, error=str(error))
                    # What it allowed, it allows no more. But a tenant keeps what it had: its
                    # projects must not become another's.
                    if isinstance(before, Tenant):
                        records[name] = before
                    elif name.startswith(_TENANT):
                        unknown.add(name)
            policy, keys = await _sorted(records, not unknown)
            policy.go_on_from(self.policy)
            self._records, self._stored, self._unknown = records, stored, unknown
            self._keys, self.policy, self.version = keys, policy, changed.version
        for watcher in self._watchers:
            watcher()

    async def run(self) -> None:
        """Keeps it up to date."""
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await self.refresh()
                if time.monotonic() > self._uses_at + _USES_S:
                    await self.note_uses()
                self._failures.worked(ACCESS)
            except Exception as error:  # Changes must not cease to hold by what one of them is.
                self._failures.failed(ACCESS, error)

    async def note_uses(self) -> None:
        """Notes in the store when keys were used."""
        self._uses_at = time.monotonic()
        used, self._used = self._used, {}
        if used:
            try:
                await self._store.note_uses(used)
            except ContexError:
                self._used = {**used, **self._used}
                raise

    async def close(self) -> None:
        """Notes what is not noted, unless the store is away."""
        with suppress(ContexError):
            await self.note_uses()


async def _sorted(
    records: Mapping[str, Record], is_whole: bool
) -> tuple[Policy, dict[str, ApiKey]]:
    """The policy of some records, and the keys among them; in slices, for there may be many."""
    roles, bindings, tenants = dict[str, Role](), dict[str, Binding](), dict[str, Tenant]()
    keys = dict[str, ApiKey]()
    async for record in sliced(records.values()):
        match record:
            case ApiKey():
                keys[record.key_id] = record
            case Role():
                roles[record.name] = record
            case Binding():
                bindings[record.identity] = record
            case Tenant():
                tenants[record.name] = record
    return Policy(roles, bindings, tenants, is_whole), keys
