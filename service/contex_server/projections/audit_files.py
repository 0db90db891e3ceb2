"""Rows of the audit as files: CSV, JSON lines, Parquet; the columns are the same in all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any, Protocol

import orjson

from contex_server.errors import ContexError, Reason
from contex_server.projections.audit import Row
from contex_server.projections.moments import rfc3339

COLUMNS = (
    "time",
    "action",
    "actor",
    "actor_verified",
    "peer",
    "client",
    "request_id",
    "agent_id",
    "data_key",
    "sequence",
    "revision",
    "event_type",
    "count",
    "stream_id",
    "detail",
    "record_id",
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Writer(Protocol):
    """Writes a file in pieces; the pieces joined are the file."""

    def add(self, rows: Iterable[Row]) -> bytes:
        """The piece for these rows; may be empty."""
        ...

    def end(self) -> bytes:
        """The last piece."""
        ...


class CsvWriter:
    """CSV (RFC 4180) with a header line.

    A text that a spreadsheet would take for a formula is written after an apostrophe, which
    spreadsheets hide.
    """

    def __init__(self) -> None:
        self._buffer = io.StringIO()
        self._csv = csv.writer(self._buffer)
        self._csv.writerow(COLUMNS)

    def add(self, rows: Iterable[Row]) -> bytes:
        """See `Writer.add`."""
        for row in rows:
            self._csv.writerow([_cell(value) for value in _values(row)])
        return self.end()

    def end(self) -> bytes:
        """See `Writer.end`."""
        piece = self._buffer.getvalue().encode()
        self._buffer.seek(0)
        self._buffer.truncate()
        return piece


class JsonLinesWriter:
    """A JSON object a line."""

    def add(self, rows: Iterable[Row]) -> bytes:
        """See `Writer.add`."""
        return b"".join(
            orjson.dumps(dict(zip(COLUMNS, _values(row), strict=True))) + b"\n" for row in rows
        )

    def end(self) -> bytes:
        """See `Writer.end`."""
        return b""


class ParquetWriter:
    """Apache Parquet, compressed with zstd; a row group for each piece that is added.

    Raises:
        ContexError: FORMAT_UNAVAILABLE: pyarrow is not installed.
    """

    def __init__(self) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise ContexError(
                Reason.FORMAT_UNAVAILABLE,
                "Parquet needs pyarrow: install contex-server[parquet]",
                metadata={"format": "parquet", "extra": "parquet"},
            ) from None
        self._pyarrow: Any = pyarrow
        kinds: dict[str, Any] = {
            "time": pyarrow.timestamp("ms", tz="UTC"),
            "actor_verified": pyarrow.bool_(),
            "revision": pyarrow.uint64(),
            "count": pyarrow.uint64(),
        }
        self._schema = pyarrow.schema(
            [(name, kinds.get(name, pyarrow.string())) for name in COLUMNS]
        )
        self._sink = _Sink()
        self._writer: Any = pyarrow.parquet.ParquetWriter(
            self._sink, self._schema, compression="zstd"
        )

    def add(self, rows: Iterable[Row]) -> bytes:
        """See `Writer.add`."""
        several = list(rows)
        if several:
            columns = [list(column) for column in zip(*map(_values, several), strict=True)]
            columns[0] = [row.place.note.ms for row in several]
            arrays = [
                self._pyarrow.array(column, field.type)
                for column, field in zip(columns, self._schema, strict=True)
            ]
            self._writer.write_table(self._pyarrow.Table.from_arrays(arrays, schema=self._schema))
        return self._sink.take()

    def end(self) -> bytes:
        """See `Writer.end`."""
        self._writer.close()
        return self._sink.take()


class _Sink(io.RawIOBase):
    """A file that is taken away while it is written."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        data = bytes(piece)
        self._pieces.append(data)
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at

    def take(self) -> bytes:
        """What was written since the last call."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def _values(row: Row) -> tuple[Any, ...]:
    return (
        rfc3339(row.place.note.ms),
        row.action.value,
        row.actor,
        row.verified,
        row.peer,
        row.client,
        row.request_id,
        row.agent_id,
        row.data_key,
        row.sequence,
        row.revision,
        row.event_type,
        row.count,
        row.stream_id,
        row.detail,
        str(row.place),
    )


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
