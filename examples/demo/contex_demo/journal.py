"""What the demo published: every event with a mark of its own, and what was acknowledged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from contex import Event, NewEvent, Receipt

from contex_demo.corpus import Document

MARK = "demo"
"""The metadata key that carries the mark; metadata are not used for matching."""


@dataclass(slots=True)
class Journal:
    """Everything published in this run by mark; without a receipt it may or may not be logged.

    Attributes:
        published: Data key and digest of the payload of what was handed to the client.
    """

    published: dict[str, tuple[str, str]] = field(default_factory=dict)
    acknowledged: dict[str, Receipt] = field(default_factory=dict)

    def draft(self, document: Document) -> NewEvent:
        """An event that publishes `document`, noted under a new mark."""
        payload = json.dumps(document.data, ensure_ascii=False, separators=(",", ":")).encode()
        mark = self._mark(document.data_key, payload)
        return NewEvent(
            data_key=document.data_key,
            payload=payload,
            content_type="application/json",
            description=document.description,
            metadata={MARK: mark},
        )

    def deletion(self, data_key: str) -> NewEvent:
        """An event that deletes a datum, noted under a new mark."""
        mark = self._mark(data_key, b"")
        return NewEvent(data_key=data_key, tombstone=True, metadata={MARK: mark})

    def _mark(self, data_key: str, payload: bytes) -> str:
        mark = f"{len(self.published):06}"
        self.published[mark] = (data_key, digest(payload))
        return mark

    def acknowledge(self, drafts: Sequence[NewEvent], receipts: Sequence[Receipt]) -> None:
        for draft, receipt in zip(drafts, receipts, strict=True):
            self.acknowledged[draft.metadata[MARK]] = receipt


@dataclass(frozen=True, slots=True)
class Logged:
    """An event as a replay of the log has it, reduced to what is compared."""

    sequence: str
    event_type: str
    data_key: str
    revision: int
    previous_sequence: str
    mark: str
    payload_sha256: str

    @classmethod
    def of(cls, event: Event) -> Logged:
        return cls(
            event.sequence,
            event.event_type,
            event.data_key,
            event.revision,
            event.previous_sequence,
            event.metadata.get(MARK, ""),
            digest(event.payload),
        )


def digest(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()
