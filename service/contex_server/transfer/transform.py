"""What becomes of each event of a file: checked, selected, marked, renamed, redacted and linked."""

from __future__ import annotations

from dataclasses import replace

from contex_server.kernel import event_codec
from contex_server.kernel.model import (
    BEGINNING,
    DATA_DELETED,
    SERVICE_TYPES,
    Entry,
    Event,
    Sequence,
)
from contex_server.kernel.names import DATA_KEY, FOREIGN
from contex_server.log.transfer import Restored
from contex_server.matching.describe import describe
from contex_server.matching.embeddings import describe_event
from contex_server.matching.formats.passages import PayloadMalformed
from contex_server.state.moments import rfc3339
from contex_server.transfer.continuity import Continuity
from contex_server.transfer.items import FileFormat, Reader
from contex_server.transfer.redaction import redact, remap_key
from contex_server.transfer.request import ImportMode, ImportReport, ImportRequest


class EventTransform:
    """Applies an import request to the events of a file; the salt keys hashes of redacted values.

    Attributes:
        continuity: The history read so far.
        staged_tail: The end of what was staged before the import was resumed.
    """

    def __init__(self, request: ImportRequest, report: ImportReport, salt: bytes) -> None:
        self._request = request
        self._report = report
        self._salt = salt
        self.continuity = Continuity()
        self.staged_tail = BEGINNING
        self._exact = request.mode is ImportMode.EXACT
        self._renumbers = bool(request.mappings) or not self._exact
        self._latest: dict[str, tuple[int, Sequence]] = {}
        """Revision and sequence of the latest event of each key, as imported."""

    def add_latest(self, data_key: str, revision: int, sequence: Sequence) -> None:
        """Adds the latest event of a key, unless the key is known already."""
        self._latest.setdefault(data_key, (revision, sequence))
        self.continuity.add_latest(data_key, revision, sequence)

    def add_present(self, entries: list[Entry]) -> None:
        """Adds events that the project has already.

        Raises:
            ContinuityError: They are not the next ones.
        """
        for entry, links in zip(entries, self.continuity.check_links(entries), strict=True):
            if links.data_key:
                self._latest[links.data_key] = (links.revision, entry.sequence)
        self.continuity.last = entries[-1].sequence

    def take(self, entries: list[Entry], reader: Reader) -> list[Restored]:
        """The next events of a file, as they are imported: those that are not staged yet.

        Raises:
            ContinuityError: They are not the next ones of an exported file.
            MalformedFile: They are not events.
        """
        verbatim = self._exact and self._request.verbatim and not self.continuity.partial
        if verbatim and reader.exported:
            return self._take_verbatim(entries)
        try:
            records = list(map(event_codec.decode, entries))
        except ValueError as error:
            raise reader.malformed(f"not an event: {error!s:.100}") from error
        if reader.exported:
            self.continuity.check_order(entries)
            fresh = [r for r in records if r.sequence > self.staged_tail]
            if fresh:
                links = [record.links for record in fresh]
                self.continuity.check_links(entries[-len(fresh) :], links)
        else:
            records = [self._in_file_order(record, reader) for record in records]
        self._report.read += len(entries)
        mark = not self._exact and (
            reader.exported or self._report.format == FileFormat.LEGACY_JSON
        )
        taken = []
        for entry, record in zip(entries, records, strict=True):
            if not self._selects(record):
                self._report.skipped += 1
                continue
            if not self._exact and not reader.exported:
                # Appending would find out too late.
                try:
                    describe(
                        record.data_key,
                        record.description,
                        record.payload,
                        record.content_type,
                        record.event_type,
                    )
                except PayloadMalformed as error:
                    raise reader.malformed(f"invalid payload: {error}") from error
            if record.sequence > self.staged_tail:
                restored = self.apply(entry, record, mark=mark)
                taken.append(restored)
                entry = Entry(restored.id, restored.body)
            self._report.add_imported(entry, entry, 1)
        return taken

    def _take_verbatim(self, entries: list[Entry]) -> list[Restored]:
        """Events that are imported unchanged: the same as in `take`, several times as fast."""
        self.continuity.check_order(entries)
        self._report.read += len(entries)
        self._report.add_imported(entries[0], entries[-1], len(entries))
        if entries[0].sequence <= self.staged_tail:
            entries = [entry for entry in entries if entry.sequence > self.staged_tail]
        return list(map(Restored.of, entries, self.continuity.check_links(entries)))

    def _in_file_order(self, record: Event, reader: Reader) -> Event:
        """An event of a foreign file at the sequence at which it is imported: the order of the
        file takes precedence over its times."""
        if not record.event_type or (record.event_type == DATA_DELETED and not record.data_key):
            problem = "an event without a type, or a deletion without a data key"
            raise reader.malformed(problem)
        for name in (record.event_type, record.data_key, record.publisher):
            if not FOREIGN.fits(name):
                raise reader.malformed(f"{name[:40]!r}: a name has {FOREIGN.limit}")
        sequence = self.continuity.last = max(record.sequence, self.continuity.last.next())
        return record if sequence == record.sequence else replace(record, sequence=sequence)

    def _selects(self, record: Event) -> bool:
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
            if key != record.data_key:
                DATA_KEY(key, "start.remap_keys")
        payload = redact(record.data_key, record.payload, request.redactions, self._salt)
        self._report.remapped += key != record.data_key
        self._report.redacted += payload is not record.payload
        digest = record.text_digest
        changed = key != record.data_key or payload is not record.payload
        if changed and digest and record.event_type != DATA_DELETED:
            text = describe_event(replace(record, data_key=key, payload=payload))
            digest = text.digest()
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
