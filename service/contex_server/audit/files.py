"""Audit records as files: CSV, JSON lines or Parquet, with the same columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any, Protocol

import orjson

from contex_server.audit.records import AuditRecord
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

    def add(self, records: Iterable[AuditRecord]) -> bytes:
        """The piece for these records; may be empty."""

    def end(self) -> bytes:
        """The last piece."""


class CsvWriter:
    """CSV (RFC 4180) with a header line.

    Texts that a spreadsheet would take for a formula get an apostrophe in front, which
    spreadsheets hide.
    """

    def __init__(self) -> None:
        self._buffer = io.StringIO()
        self._csv = csv.writer(self._buffer)
        self._csv.writerow(COLUMNS)

    def add(self, records: Iterable[AuditRecord]) -> bytes:
        for record in records:
            self._csv.writerow([_cell(value) for value in _values(record)])
        return self.end()

    def end(self) -> bytes:
        piece = self._buffer.getvalue().encode()
        self._buffer.seek(0)
        self._buffer.truncate()
        return piece


class JsonLinesWriter:
    """One JSON object a line."""

    def add(self, records: Iterable[AuditRecord]) -> bytes:
        return b"".join(
            orjson.dumps(dict(zip(COLUMNS, _values(record), strict=True))) + b"\n"
            for record in records
        )

    def end(self) -> bytes:
        return b""


class ParquetWriter:
    """Apache Parquet, compressed with zstd; a row group for each piece that is added.

    Raises:
        ContexError: FORMAT_UNAVAILABLE: pyarrow is not installed.
    """

    def __init__(self) -> None:
        kinds = {"time": TIME, "actor_verified": TRUTH, "revision": NUMBER, "count": NUMBER}
        self._file = ParquetFile({name: kinds.get(name, TEXT) for name in COLUMNS})

    def add(self, records: Iterable[AuditRecord]) -> bytes:
        return self._file.add((record.id.note.ms, *_values(record)[1:]) for record in records)

    def end(self) -> bytes:
        return self._file.end()


def _values(record: AuditRecord) -> tuple[Any, ...]:
    converted = {
        "time": rfc3339(record.id.note.ms),
        "action": record.action.value,
        "record_id": str(record.id),
    }
    return tuple(
        converted[name] if name in converted else getattr(record, name) for name in COLUMNS
    )


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
