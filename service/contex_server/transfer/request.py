"""The options of an import, its report, and how far it has come."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any, Self

import orjson

from contex_server.kernel.model import BEGINNING, END_OF_TIME, Entry, EventFilter, Sequence
from contex_server.transfer.items import FileFormat, Manifest
from contex_server.transfer.redaction import KeyMapping, Redaction


class ImportMode(IntEnum):
    """The numbers are those of `contex.v1.ImportMode`."""

    EXACT = 1
    REPLAY = 2


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """The options of an import; see `contex.v1.ImportStart`.

    Attributes:
        after: Only events of the file after this sequence ...
        until: ... and up to this one.
        import_id: Identifies the import when it is resumed; "" if it can't be.
    """

    project: str
    mode: ImportMode
    format: FileFormat | None
    filter: EventFilter
    after: Sequence
    until: Sequence
    dry_run: bool
    mappings: tuple[KeyMapping, ...]
    redactions: tuple[Redaction, ...]
    import_id: str

    @property
    def verbatim(self) -> bool:
        """Whether every event is imported unchanged."""
        return (
            self.filter.is_open
            and self.after == BEGINNING
            and self.until == END_OF_TIME
            and not self.mappings
            and not self.redactions
        )

    def fingerprint(self) -> str:
        """Identifies the options that may not change when an import is resumed."""
        rest = (
            self.format,
            self.filter.fingerprint(),
            self.after,
            self.until,
            self.mappings,
            tuple(
                (sorted(r.keys.data_keys), r.path, r.action, r.replacement) for r in self.redactions
            ),
        )
        # Stored with imports, so it may not change with the names of classes.
        mode = f"<Mode.{self.mode.name}: {self.mode:d}>"
        text = f"({self.project!r}, {mode}, {repr(rest)[1:]}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(slots=True)
class ImportReport:
    """See `contex.v1.ImportReport`."""

    dry_run: bool = False
    format: int = 0
    source: str = ""
    read: int = 0
    imported: int = 0
    skipped: int = 0
    present: int = 0
    remapped: int = 0
    redacted: int = 0
    agents: int = 0
    vectors: int = 0
    first: str = ""
    last: str = ""
    digest: str = ""

    def add_imported(self, first: Entry, last: Entry, count: int) -> None:
        """Counts events that are imported."""
        self.imported += count
        self.first = self.first or first.id.decode()
        self.last = last.id.decode()


_SEQUENCES = ("last_read", "staged", "matched")


@dataclass(slots=True)
class Checkpoint:
    """The progress of an import, as stored with the staged events so that it can be resumed. The
    field names are those of the stored JSON.

    Attributes:
        fingerprint: That of the request; see `ImportRequest.fingerprint`.
        at: When the import began, in seconds since 1970.
        salt: Keys the hashes of redacted values, in hexadecimal.
        offset: The file is staged up to this byte.
        reader: The state of the reader at `offset`; empty if reading cannot be resumed.
        last_read: The last event read.
        staged: Not read any more.
        matched: The project's own events are found in the file up to this one.
        model: The embedding model of the staged vectors, or "".
        retention: The retention that the file sets, as stored, or "".
        checked: Whether the whole file was read and checked.
    """

    fingerprint: str
    at: float
    salt: str
    format: int = 0
    offset: int = 0
    reader: dict[str, Any] = field(default_factory=dict)
    manifest: Manifest = field(default_factory=Manifest)
    report: ImportReport = field(default_factory=ImportReport)
    last_read: Sequence = BEGINNING
    staged: Sequence = BEGINNING
    matched: Sequence = BEGINNING
    model: str = ""
    retention: str = ""
    checked: bool = False

    @property
    def models(self) -> list[str]:
        """The models of the staged vectors."""
        return [self.model] if self.model else []

    def encode(self) -> bytes:
        """As stored."""
        fields = asdict(self)
        return orjson.dumps(fields | {name: str(fields[name]) for name in _SEQUENCES})

    @classmethod
    def decode(cls, data: bytes) -> Self | None:
        """Reads what `encode` wrote; None if nothing is stored."""
        if not data:
            return None
        fields = orjson.loads(data)
        fields["manifest"] = Manifest.of_json(fields["manifest"])
        fields["report"] = ImportReport(**fields["report"])
        return cls(**fields | {name: Sequence.parse(fields[name]) for name in _SEQUENCES})
