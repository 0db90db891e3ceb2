"""What access needs of the store: records that all servers have in memory, and what changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

ACCESS = "~access"
"""The project that stands for the deployment: its records and its audit. Clients can't name it."""


class Changed(NamedTuple):
    """What is different since a version.

    Attributes:
        version: The version now.
        records: The records that changed, by name; None for those that are gone.
    """

    version: int
    records: dict[str, bytes | None]


class Write(NamedTuple):
    """A change of one record.

    Attributes:
        before: What is stored, as the writer knows it; b"": nothing.
        after: What is to be stored; b"": nothing.
    """

    before: bytes
    after: bytes


class AccessStore(Protocol):
    """The records of access. See `EventLog` for errors."""

    async def changed(self, since: int) -> Changed:
        """What changed after a version; all records after 0."""

    async def write(self, writes: Mapping[str, Write], note: bytes) -> int | None:
        """Changes records together, with a record of the audit; returns their version.

        None if one of them is not as the writer knows it: nothing was changed then.
        """

    async def note_uses(self, uses: Mapping[str, int]) -> None:
        """Notes when keys were used last, in unix milliseconds by the keys' ids."""

    async def uses(self, key_ids: list[str]) -> list[int]:
        """When keys were used last; 0 for those that never were."""
