"""Rows of the audit as files: CSV, JSON lines, Parquet; the columns are the same in all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any, Protocol

import orjson

from contex_server.audit.trail import Row
from contex_server.kernel.parquet import NUMBER, TEXT, TIME, TRUTH, ParquetFile
from contex_server.state.moments import rfc3339

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
        kinds = {"time": TIME, "actor_verified": TRUTH, "revision": NUMBER, "count": NUMBER}
        self._file = ParquetFile({name: kinds.get(name, TEXT) for name in COLUMNS})

    def add(self, rows: Iterable[Row]) -> bytes:
        """See `Writer.add`."""
        return self._file.add((row.place.note.ms, *_values(row)[1:]) for row in rows)

    def end(self) -> bytes:
        """See `Writer.end`."""
        return self._file.end()


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
