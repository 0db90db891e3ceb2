"""Events as Apache Parquet, for analysis: exported only."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import Any

import orjson

from contex_server.kernel import event_codec
from contex_server.kernel.model import Entry, Event
from contex_server.kernel.parquet import BYTES, NUMBER, TEXT, TIME, TRUTH, ParquetFile
from contex_server.kernel.right_of_way import giving
from contex_server.transfer.items import Manifest, Summary, Writer

_COLUMNS: dict[str, tuple[str, Callable[[Event], Any]]] = {
    "sequence": (TEXT, lambda event: str(event.sequence)),
    "time": (TIME, lambda event: event.sequence.ms),
    "event_type": (TEXT, lambda event: event.event_type),
    "data_key": (TEXT, lambda event: event.data_key),
    "revision": (NUMBER, lambda event: event.revision),
    "previous_sequence": (TEXT, lambda event: str(event.previous_sequence or "")),
    "content_type": (TEXT, lambda event: event.content_type or "application/json"),
    "payload": (BYTES, lambda event: event.payload),
    "description": (TEXT, lambda event: event.description),
    "publisher": (TEXT, lambda event: event.publisher),
    "metadata": (TEXT, lambda event: orjson.dumps(event.metadata).decode()),
    "text_digest": (TEXT, lambda event: event.text_digest.hex()),
    "opaque": (TRUTH, lambda event: event.opaque),
    "valid_until": (TIME, lambda event: event.valid_until_ms),
}


class ParquetWriter(Writer):
    """One row for each event; "metadata" is a JSON object.

    Raises:
        ContexError: FORMAT_UNAVAILABLE: pyarrow is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._file = ParquetFile({name: kind for name, (kind, _) in _COLUMNS.items()})

    def begin(self, manifest: Manifest) -> bytes:
        return b""

    def events(self, entries: SequenceOf[Entry]) -> bytes:
        self.items += len(entries)
        return self._file.add(
            [value(event) for _, value in _COLUMNS.values()]
            for event in map(event_codec.decode, giving(entries))
        )

    def end(self, summary: Summary) -> bytes:
        return self._file.end()
