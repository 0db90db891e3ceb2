"""What an import is to do, and what it did."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum

from contex_server.kernel.model import BEGINNING, END_OF_TIME, EventFilter, Sequence
from contex_server.transfer.items import FileFormat
from contex_server.transfer.redaction import KeyMapping, Redaction


class Mode(IntEnum):
    """The numbers are those of `contex.v1.ImportMode`."""

    EXACT = 1
    REPLAY = 2


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be imported; see `contex.v1.ImportStart`.

    Attributes:
        after: Events of the file after this sequence, ...
        until: ... and up to this one.
        import_id: "" where the import can't be resumed.
    """

    project: str
    mode: Mode
    format: FileFormat | None
    filter: EventFilter
    after: Sequence
    until: Sequence
    dry_run: bool
    mappings: tuple[KeyMapping, ...]
    redactions: tuple[Redaction, ...]
    import_id: str

    @property
    def whole(self) -> bool:
        """Whether every event is imported as it is."""
        return (
            self.filter.is_open
            and self.after == BEGINNING
            and self.until == END_OF_TIME
            and not self.mappings
            and not self.redactions
        )

    def fingerprint(self) -> str:
        """What has to be the same where an import is resumed."""
        names = (self.filter.event_types, self.filter.data_keys, self.filter.publishers)
        parts = (
            self.project,
            self.mode,
            self.format,
            tuple(map(sorted, names)),
            self.after,
            self.until,
            self.mappings,
            tuple(
                (sorted(r.keys.data_keys), r.path, r.action, r.replacement) for r in self.redactions
            ),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclass(slots=True)
class Report:
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
