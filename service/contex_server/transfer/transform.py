"""What becomes of each event of a file: checked, selected, marked, renamed, redacted and linked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from dataclasses import replace

from contex_server.kernel import event_codec
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import ContexError, Reason, invalid_field
from contex_server.kernel.event_rules import (
    AHEAD_MS,
    check_body,
    check_content,
    check_names,
    check_place,
    check_validity,
)
from contex_server.kernel.model import (
    BEGINNING,
    DELETIONS,
    SERVICE_TYPES,
    Entry,
    Event,
    Sequence,
)
from contex_server.kernel.names import DATA_KEY
from contex_server.kernel.right_of_way import giving
from contex_server.log.transfer import Restored
from contex_server.match.service_events import check_service_event
from contex_server.matching.describe import describe
from contex_server.matching.embeddings import describe_event
from contex_server.matching.formats.passages import PayloadMalformed
from contex_server.matching.formats.reading import check_nesting, nests_json
from contex_server.state.moments import rfc3339
from contex_server.transfer.continuity import Continuity
from contex_server.transfer.items import FileFormat, Place, Reader
from contex_server.transfer.redaction import redact, remap_key
from contex_server.transfer.request import ImportMode, ImportReport, ImportRequest

_MARKS = ("original_sequence", "original_time")
"""The metadata that say where an event comes from."""
_REMEMBERED = 100_000


class EventTransform:
    """Applies an import request to the events of a file; the salt keys hashes of redacted values.

    Attributes:
        continuity: The history read so far.
        staged_tail: The end of what was staged before the import was resumed.
    """

    def __init__(
        self, request: ImportRequest, report: ImportReport, salt: bytes, limits: Limits
    ) -> None:
        self._request = request
        self._limits = limits
        self._report = report
        self._salt = salt
        self.continuity = Continuity()
        self.staged_tail = BEGINNING
        self._exact = request.mode is ImportMode.EXACT
        self._renumbers = bool(request.mappings) or not self._exact
        self._latest: dict[str, tuple[int, Sequence]] = {}
        """Revision and sequence of the latest event of each key, as imported."""
        self._digests: dict[str, bytes] = {}
        """Of the latest event of each key, if the file has none: deletions have that of what they
        delete."""
        self._checked = set[tuple[str, str, str]]()
        """Keys, types and publishers that were checked together: mostly they come again."""

    def add_latest(self, data_key: str, revision: int, sequence: Sequence) -> None:
        """Adds the latest event of a key, unless the key is known already."""
        self._latest.setdefault(data_key, (revision, sequence))
        self.continuity.add_latest(data_key, revision, sequence)

    def with_digests(self, entries: list[Entry]) -> list[Entry]:
        """Exported events as they are imported without a change."""
        return self._with_digests(entries, list(map(event_codec.decode, entries)))[0]

    def _with_digests(
        self, entries: list[Entry], records: list[Event]
    ) -> tuple[list[Entry], list[Event]]:
        """Events, each with the digest of its text where a publish gives it one.

        Every exported event has its own. What another tool has written in the same format may have
        none, and would match nothing.
        """
        if not any(map(_lacks_digest, records)):
            return entries, records
        entries, records = list(entries), list(records)
        for index, record in enumerate(records):
            if not _lacks_digest(record):
                continue
            if record.deletes:
                digest, opaque = self._digests.get(record.data_key, b""), record.opaque
            else:
                text = describe_event(record)
                digest, opaque = text.digest(), record.opaque or not text.described
                self._digests[record.data_key] = digest
            if digest:
                records[index] = replace(record, text_digest=digest, opaque=opaque)
                entries[index] = event_codec.entry(records[index])
        return entries, records

    def add_present(self, entries: list[Entry]) -> None:
        """Adds events that the project has already.

        Raises:
            ContinuityError: They are not the next ones.
        """
        for entry, links in zip(entries, self.continuity.check_links(entries), strict=True):
            if links.data_key:
                self._latest[links.data_key] = (links.revision, entry.sequence)
        self.continuity.last = entries[-1].sequence

    def take(
        self, entries: list[Entry], reader: Reader, places: SequenceOf[Place] = ()
    ) -> list[Restored]:
        """The next events of a file, as they are imported: those that are not staged yet.

        Args:
            entries: The events.
            reader: What has read them.
            places: Where in the file each is; empty if only the reader knows.

        Raises:
            ContinuityError: They are not the next ones of an exported file.
            MalformedFile: They are not events, or what a publish would refuse.
        """
        records = []
        for index, entry in enumerate(giving(entries)):
            with _refused_at(reader, places, index):
                records.append(self._decode(entry))
        if self._exact:
            entries, records = self._with_digests(entries, records)
        verbatim = self._exact and self._request.verbatim and not self.continuity.partial
        if verbatim and reader.exported:
            return self._take_verbatim(entries, records, reader, places)
        if reader.exported:
            self.continuity.check_order(entries)
            fresh = [r for r in records if r.sequence > self.staged_tail]
            if fresh:
                links = [record.links for record in fresh]
                self.continuity.check_links(entries[-len(fresh) :], links)
        else:
            records = list(map(self._in_file_order, records))
        self._report.read += len(entries)
        mark = not self._exact and (
            reader.exported or self._report.format == FileFormat.LEGACY_JSON
        )
        taken = []
        for index, (entry, record) in enumerate(giving(zip(entries, records, strict=True))):
            if not self._selects(record):
                self._report.skipped += 1
                continue
            with _refused_at(reader, places, index):
                self._check(record)
            if record.sequence > self.staged_tail:
                restored = self.apply(entry, record, mark=mark)
                taken.append(restored)
                entry = Entry(restored.id, restored.body)
            self._report.add_imported(entry, entry, 1)
        return taken

    def _decode(self, entry: Entry) -> Event:
        check_body(entry.body, self._limits)
        try:
            record = event_codec.decode_new(entry)
            if event_codec.is_foreign(entry):
                raise ValueError("it is sealed, or has a sequence besides its own")
            return record
        except ValueError as error:
            raise invalid_field("event", f"not an event: {error!s:.100}") from error

    def _take_verbatim(
        self,
        entries: list[Entry],
        records: list[Event],
        reader: Reader,
        places: SequenceOf[Place],
    ) -> list[Restored]:
        """Events that are imported unchanged: the same as in `take`, several times as fast."""
        self.continuity.check_order(entries)
        self._report.read += len(entries)
        self._report.add_imported(entries[0], entries[-1], len(entries))
        done = 0
        if entries[0].sequence <= self.staged_tail:
            done = len([entry for entry in entries if entry.sequence <= self.staged_tail])
            entries = entries[done:]
        links = [record.links for record in records[done:]]
        self.continuity.check_links(entries, links)
        for index, record in enumerate(giving(records[done:]), done):
            with _refused_at(reader, places, index):
                self._check(record)
        return list(map(Restored.of, entries, links))

    def _in_file_order(self, record: Event) -> Event:
        """An event of a foreign file at the sequence at which it is imported: the order of the
        file takes precedence over its times."""
        sequence = record.sequence
        if self._report.format == FileFormat.CLOUD_EVENTS:
            # A time far ahead counts as the last that is accepted.
            sequence = min(sequence, Sequence(time.time_ns() // 1_000_000 + AHEAD_MS, 0))
        sequence = self.continuity.last = max(sequence, self.continuity.last.next())
        return record if sequence == record.sequence else replace(record, sequence=sequence)

    def _check(self, record: Event) -> None:
        """Checks a selected event: what is accepted can be read and erased and, if it is appended
        as a new one, could have been published.

        Raises:
            ContexError: It can't.
        """
        key, kind, limits = record.data_key, record.event_type, self._limits
        if remap_key(key, self._request.mappings) != key:
            key = ""  # `apply` checks what it is renamed to.
        self._check_names(key, record)
        now_ms = time.time_ns() // 1_000_000
        check_place(record, now_ms)
        if not self._exact:
            check_validity(record, now_ms, limits)
        check_content(record, limits, _MARKS)
        try:
            if not self._exact and kind not in DELETIONS:
                # Appending would find out too late.
                describe(key, record.description, record.payload, record.content_type, kind)
            elif kind in SERVICE_TYPES:
                check_service_event(kind, record.payload)
            elif nests_json(record.payload, record.content_type):
                check_nesting(record.payload)
        except PayloadMalformed as error:
            raise ContexError(
                Reason.PAYLOAD_MALFORMED, f"payload: {error}", field="payload"
            ) from error

    def _check_names(self, key: str, record: Event) -> None:
        if record.data_key and not key:
            key = "renamed"
        names = (key, record.event_type, record.publisher)
        if names not in self._checked:
            check_names(*names)
            if len(self._checked) >= _REMEMBERED:
                self._checked.clear()
            self._checked.add(names)

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
            original = (entry.id.decode(), rfc3339(entry.sequence.ms))
            metadata = {**metadata, **dict(zip(_MARKS, original, strict=True))}
        if key and request.mappings:
            key = remap_key(key, request.mappings)
            if key != record.data_key:
                DATA_KEY(key, "start.remap_keys")
        payload = redact(record.data_key, record.payload, request.redactions, self._salt)
        self._report.remapped += key != record.data_key
        self._report.redacted += payload is not record.payload
        digest = record.text_digest
        changed = key != record.data_key or payload is not record.payload
        if changed and digest and not record.deletes:
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


def _lacks_digest(record: Event) -> bool:
    """Whether an event has no digest of a text, although a publish gives it one."""
    erased = record.erased is not None
    return not (record.text_digest or erased or record.event_type in SERVICE_TYPES)


@contextmanager
def _refused_at(reader: Reader, places: SequenceOf[Place], index: int) -> Iterator[None]:
    """Says where in the file the event is that is refused, and calls the field as the file does."""
    try:
        yield
    except ContexError as error:
        field, _, problem = error.message.partition(": ")
        name = reader.fields.get(field, field)
        place = places[index] if places else None
        raise reader.malformed(f"{name}: {problem}", place) from error
