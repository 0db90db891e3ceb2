"""What administrators do about encryption: turn it on and off, and see which master key is used."""

from __future__ import annotations

from dataclasses import dataclass

from contex_server.audit.records import AuditAction, encode_action
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import Origin
from contex_server.tiers.storage import Storage

_KEYS = 1_000
"""Keys that are looked at in one call of the store."""


@dataclass(frozen=True, slots=True)
class EncryptionInfo:
    """How a project is encrypted.

    Attributes:
        enabled: Whether events are that name no subject.
        master_key_id: The master key that wraps keys; "" without one.
        keys_to_rewrap: How many keys another one wraps.
    """

    enabled: bool
    master_key_id: str
    keys_to_rewrap: int


@dataclass(frozen=True, slots=True)
class EncryptionAdmin:
    """Administers the encryption of projects.

    Every method may raise `ContexError` with STORE_UNAVAILABLE.
    """

    storage: Storage

    async def of(self, project: str) -> EncryptionInfo:
        """How a project is encrypted."""
        keys, sealer = self.storage.store.keys, self.storage.sealer
        enabled = await keys.is_encrypted(project)
        if sealer.master is None:
            return EncryptionInfo(enabled, "", 0)
        outdated = 0
        async for stored in keys.wrapped_keys_of(project, _KEYS):
            outdated += sum(map(sealer.is_outdated, stored.values()))
        return EncryptionInfo(enabled, sealer.master.current_id.hex(), outdated)

    async def change(self, project: str, *, enabled: bool, origin: Origin) -> None:
        """Turns encryption on or off, for events from now on.

        Raises:
            ContexError: MASTER_KEY_MISSING.
        """
        if enabled and not self.storage.sealer.can_seal:
            raise ContexError(
                Reason.MASTER_KEY_MISSING,
                "a project's keys are wrapped by a master key, and the server has none",
                field="enabled",
            )
        detail = f"turned encryption {'on' if enabled else 'off'}"
        action = encode_action(AuditAction.ADMINISTERED, origin, detail)
        await self.storage.encryption.change(project, enabled=enabled, action=action)
