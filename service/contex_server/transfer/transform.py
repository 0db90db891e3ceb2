"""What becomes of each event of a file: selected, marked, renamed, redacted and linked."""

from __future__ import annotations

from dataclasses import replace

from contex_server.kernel import event_codec
from contex_server.kernel.model import DATA_DELETED, SERVICE_TYPES, Entry, Event, Links, Sequence
from contex_server.log.transfer import Restored
from contex_server.matching.describe import describe
from contex_server.matching.embeddings import describe_event
from contex_server.state.moments import rfc3339
from contex_server.transfer.redaction import redact, remap_key
from contex_server.transfer.request import ImportMode, ImportReport, ImportRequest


class EventTransform:
    """Applies an import request to events, one by one; the salt keys hashes of redacted values."""

    def __init__(self, request: ImportRequest, report: ImportReport, salt: bytes) -> None:
        self._request = request
        self._report = report
        self._salt = salt
        self._exact = request.mode is ImportMode.EXACT
        self._renumbers = bool(request.mappings) or not self._exact
        self._latest: dict[str, tuple[int, Sequence]] = {}
        """Revision and sequence of the latest event of each key, as imported."""

    def add_latest(self, data_key: str, revision: int, sequence: Sequence) -> None:
        """Adds the latest event of a key, unless the key is known already."""
        self._latest.setdefault(data_key, (revision, sequence))

    def add_present(self, entry: Entry, links: Links) -> None:
        """Adds an event that the project has already."""
        if links.data_key:
            self._latest[links.data_key] = (links.revision, entry.sequence)

    def selects(self, record: Event) -> bool:
        """Whether an event is imported at all."""
        request = self._request
        return (
            request.after < record.sequence <= request.until
            and request.filter.passes(record)
            and (self._exact or (record.event_type not in SERVICE_TYPES and record.erased is None))
        )

    def apply(self, entry: Entry, record: Event, *, mark: bool) -> Restored:
        """The event as it is imported.

        Args:
            entry: The event as it is in the file.
            record: The same, at the sequence at which it is imported.
            mark: Whether to say in the metadata where the event comes from.
        """
        request, sequence = self._request, record.sequence
        key, metadata = record.data_key, record.metadata
        if mark:
            original = {
                "original_sequence": entry.id.decode(),
                "original_time": rfc3339(entry.sequence.ms),
            }
            metadata = {**metadata, **original}
        if key and request.mappings:
            key = remap_key(key, request.mappings)
        payload = redact(record.data_key, record.payload, request.redactions, self._salt)
        self._report.remapped += key != record.data_key
        self._report.redacted += payload is not record.payload
        digest = record.text_digest
        changed = key != record.data_key or payload is not record.payload
        if changed and digest and record.event_type != DATA_DELETED:
            digest = _text_digest(record, key, payload)
        before = self._latest.get(key) if key else None
        revision = record.revision
        if self._renumbers:
            revision = (before[0] if before else 0) + 1 if key else 0
        previous = before[1] if before else None
        if key:
            self._latest[key] = (revision, sequence)
        unchanged = not (mark or changed) and str(sequence).encode() == entry.id
        if not unchanged or (revision, previous) != (record.revision, record.previous_sequence):
            record = replace(
                record,
                data_key=key,
                payload=payload,
                metadata=metadata,
                text_digest=digest,
                revision=revision,
                previous_sequence=previous,
            )
            entry = event_codec.entry(record)
        return Restored.of(entry, record.links)


def check_payload(record: Event) -> None:
    """Checks that the payload of an event that will be appended is what its content type
    says: the appending would find out too late.

    Raises:
        PayloadMalformed: It is not.
    """
    describe(
        record.data_key, record.description, record.payload, record.content_type, record.event_type
    )


def _text_digest(record: Event, data_key: str, payload: bytes) -> bytes:
    return describe_event(replace(record, data_key=data_key, payload=payload)).digest()
