"""How far an import has come, as stored with the staged events so that it can be resumed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import orjson


@dataclass(slots=True)
class Checkpoint:
    """The progress of an import. The field names are those of the stored JSON.

    Attributes:
        fingerprint: That of the request; see `ImportRequest.fingerprint`.
        at: When the import began, in seconds since 1970.
        salt: Keys the hashes of redacted values, in hexadecimal.
        offset: The file is staged up to this byte.
        reader: The state of the reader at `offset`; empty if reading cannot be resumed.
        last_read: The sequence of the last event read.
        matched: The project's own events are found in the file up to this sequence.
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
    manifest: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    last_read: str = "0-0"
    staged: str = "0-0"
    matched: str = "0-0"
    model: str = ""
    retention: str = ""
    checked: bool = False

    @property
    def models(self) -> list[str]:
        """The models of the staged vectors."""
        return [self.model] if self.model else []

    def encode(self) -> bytes:
        """As stored."""
        return orjson.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def decode(cls, data: bytes) -> Self | None:
        """Reads what `encode` wrote; None if nothing is stored."""
        return cls(**orjson.loads(data)) if data else None
