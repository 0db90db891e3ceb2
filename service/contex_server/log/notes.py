"""Streams of records: the audit, and agents' journals."""

from __future__ import annotations

from typing import NamedTuple

from contex_server.kernel.model import Sequence


class Note(NamedTuple):
    """An entry of the audit or of an agent's journal.

    Attributes:
        sequence: When it was written; its position in the stream.
        fields: Its content, opaque to the log. `audit.trail` and `agents.journal` read it.
    """

    sequence: Sequence
    fields: dict[bytes, bytes]
