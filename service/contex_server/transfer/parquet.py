"""Events as Apache Parquet, for analysis: exported only."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import orjson

from contex_server.kernel import event_codec
from contex_server.kernel.model import Entry
from contex_server.kernel.parquet import BYTES, NUMBER, TEXT, TIME, TRUTH, ParquetFile
from contex_server.transfer.items import Manifest, Summary, Writer

_COLUMNS = {
    "sequence": TEXT,
    "time": TIME,
    "event_type": TEXT,
    "data_key": TEXT,
    "revision": NUMBER,
    "previous_sequence": TEXT,
    "content_type": TEXT,
    "payload": BYTES,
    "description": TEXT,
    "publisher": TEXT,
    "metadata": TEXT,
    "text_digest": TEXT,
    "opaque": TRUTH,
}


class ParquetWriter(Writer):
    """One row for each event; "metadata" is a JSON object.

    Raises:
        ContexError: FORMAT_UNAVAILABLE: pyarrow is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._file = ParquetFile(_COLUMNS)

    def begin(self, manifest: Manifest) -> bytes:
        return b""

    def events(self, entries: SequenceOf[Entry]) -> bytes:
        self.items += len(entries)
        records = map(event_codec.decode, entries)
        return self._file.add(
            (
                str(r.sequence),
                r.sequence.ms,
                r.event_type,
                r.data_key,
                r.revision,
                str(r.previous_sequence or ""),
                r.content_type or "application/json",
                r.payload,
                r.description,
                r.publisher,
                orjson.dumps(r.metadata).decode(),
                r.text_digest.hex(),
                r.opaque,
            )
            for r in records
        )

    def end(self, summary: Summary) -> bytes:
        return self._file.end()
