"""The records of the audit: what was done, by whom and to what."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from contex_server.kernel.model import SERVICE, EventFilter, Origin, Sequence
from contex_server.kernel.scope import EVERYTHING, Scope

AUDIT = ""
"""The source of the records that come from no agent's journal."""

REFUSALS = "!"
"""The source of the records of refused calls; no agent's id."""


class AuditAction(StrEnum):
    """What was done; the names are those of `contex.v1.AuditAction`."""

    PUBLISHED = "PUBLISHED"
    DELETED = "DELETED"
    REGISTERED = "REGISTERED"
    UNREGISTERED = "UNREGISTERED"
    DELIVERED = "DELIVERED"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    SUBSCRIBED = "SUBSCRIBED"
    UNSUBSCRIBED = "UNSUBSCRIBED"
    EXPORTED = "EXPORTED"
    JUDGED = "JUDGED"
    ADMINISTERED = "ADMINISTERED"
    IMPORTED = "IMPORTED"
    REFUSED = "REFUSED"
    UNSPECIFIED = "UNSPECIFIED"

    @classmethod
    def _missing_(cls, value: object) -> AuditAction:
        """An action that a later version records is told as one that is not known."""
        return cls.UNSPECIFIED


_JOURNAL_ACTIONS = {
    AuditAction.DELIVERED,
    AuditAction.ACKNOWLEDGED,
    AuditAction.SUBSCRIBED,
    AuditAction.UNSUBSCRIBED,
}
_AUDIT_ACTIONS = set(AuditAction) - {AuditAction.DELIVERED, AuditAction.ACKNOWLEDGED}


@dataclass(frozen=True, slots=True, order=True)
class RecordId:
    """Identifies a record, and orders all of a project by time.

    Attributes:
        note: The note that it comes from.
        source: The agent whose journal the note is in, or `AUDIT` or `REFUSALS`.
        index: The record's index in the note.
    """

    note: Sequence
    source: str
    index: int

    def __str__(self) -> str:
        return f"{self.note}:{self.index}" + (f":{self.source}" if self.source else "")

    @classmethod
    def parse(cls, text: str) -> RecordId:
        """Reads what `str` wrote.

        Raises:
            ValueError: The text is not an id.
        """
        note, index, *source = text.split(":", 2)
        return cls(Sequence.parse(note), source[0] if source else AUDIT, int(index))


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One action; see `contex.v1.AuditRecord`.

    Attributes:
        actor: The identity that was proved, or else the name that the client gave.
        actor_verified: Whether it was proved; that of the service is.
        claimed_actor: The name that the client gave beside one that was proved.
    """

    id: RecordId
    action: AuditAction
    actor: str = ""
    peer: str = ""
    client: str = ""
    request_id: str = ""
    agent_id: str = ""
    data_key: str = ""
    sequence: str = ""
    revision: int = 0
    event_type: str = ""
    count: int = 0
    stream_id: str = ""
    detail: str = ""
    actor_verified: bool = False
    claimed_actor: str = ""


def by(origin: Origin) -> dict[str, Any]:
    """What a record says of who did something."""
    identity, peer, client, claimed = origin
    return {
        "actor": identity,
        "peer": peer,
        "client": client,
        "actor_verified": claimed is not None or origin == SERVICE,
        "claimed_actor": claimed or "",
    }


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which records to read: every part that is not empty must fit.

    Attributes:
        scope: What the reader may see. One who does not see everything sees no records about no
            datum, which name agents and identities, and none that name an agent not `seen`.
        seen: The agents that the reader may see; None: all.
    """

    actions: frozenset[AuditAction] = frozenset()
    actors: frozenset[str] = frozenset()
    agent_ids: frozenset[str] = frozenset()
    data_keys: frozenset[str] = frozenset()
    request_id: str = ""
    scope: Scope = EVERYTHING
    seen: frozenset[str] | None = None

    def admits(self, record: AuditRecord) -> bool:
        """Whether the reader may see a record."""
        if self.scope.is_open:
            return True
        return self.scope.admits(record.data_key) and (
            not record.agent_id or (self.seen is not None and record.agent_id in self.seen)
        )

    def passes(self, record: AuditRecord) -> bool:
        """Whether a record fits, of those that are admitted."""
        return (
            (not self.actions or record.action in self.actions)
            and (not self.actors or record.actor in self.actors)
            and (not self.agent_ids or record.agent_id in self.agent_ids)
            and (not self.request_id or record.request_id == self.request_id)
            and EventFilter(data_keys=self.data_keys).admits_key(record.data_key)
        )

    @property
    def needs_journals(self) -> bool:
        """Whether agents' journals may hold records that fit."""
        actions = self.actions or set(AuditAction)
        if self.data_keys:
            actions = actions & {AuditAction.DELIVERED}
        return bool(actions & _JOURNAL_ACTIONS) and not self.request_id

    @property
    def needs_refusals(self) -> bool:
        """Whether refused calls may fit."""
        return self.scope.is_open and AuditAction.REFUSED in (self.actions or AuditAction)

    @property
    def needs_audit(self) -> bool:
        """Whether the project's audit may hold records that fit."""
        return bool((self.actions or _AUDIT_ACTIONS) & _AUDIT_ACTIONS)


def encode_action(
    action: AuditAction,
    origin: Origin,
    detail: str,
    *,
    sequence: Sequence | str = "",
    stream_id: str = "",
    count: int = 0,
) -> bytes:
    """An action as a note of the audit."""
    return orjson.dumps(
        {
            "action": action,
            "origin": origin.parts,
            "detail": detail,
            "sequence": str(sequence),
            "stream_id": stream_id,
            "count": count,
        }
    )


def decode_action(record_id: RecordId, note: bytes) -> AuditRecord:
    """Reads what `encode_action` wrote."""
    fields = orjson.loads(note)
    return AuditRecord(
        record_id,
        AuditAction(fields["action"]),
        **by(Origin(*fields["origin"])),
        detail=fields["detail"],
        sequence=fields["sequence"],
        stream_id=fields["stream_id"],
        count=fields["count"],
    )
