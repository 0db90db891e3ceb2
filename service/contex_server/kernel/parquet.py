"""Apache Parquet, written in pieces."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as SequenceOf
from typing import Any

from contex_server.kernel.errors import ContexError, Reason

TIME, TEXT, NUMBER, TRUTH, BYTES = "time", "text", "number", "truth", "bytes"


class ParquetFile:
    """A file, compressed with zstd; a row group for each piece that is added.

    Args:
        columns: What each holds: TIME (unix milliseconds), TEXT, NUMBER (unsigned), TRUTH or
            BYTES.

    Raises:
        ContexError: FORMAT_UNAVAILABLE: pyarrow is not installed.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
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
            TIME: pyarrow.timestamp("ms", tz="UTC"),
            TEXT: pyarrow.string(),
            NUMBER: pyarrow.uint64(),
            TRUTH: pyarrow.bool_(),
            BYTES: pyarrow.binary(),
        }
        self._schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
        self._sink = _Sink()
        self._writer: Any = pyarrow.parquet.ParquetWriter(
            self._sink, self._schema, compression="zstd"
        )

    def add(self, rows: Iterable[SequenceOf[Any]]) -> bytes:
        """The piece for these rows; may be empty."""
        several = list(rows)
        if several:
            columns = zip(*several, strict=True)
            arrays = [
                self._pyarrow.array(list(column), field.type)
                for column, field in zip(columns, self._schema, strict=True)
            ]
            self._writer.write_table(self._pyarrow.Table.from_arrays(arrays, schema=self._schema))
        return self._sink.take()

    def end(self) -> bytes:
        """The last piece."""
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
