"""Detects the format of a file."""

from __future__ import annotations

import re
from collections.abc import Callable

import orjson
import zstandard

from contex_server.transfer.cutting import BOM
from contex_server.transfer.items import FileFormat, MalformedFile, Reader
from contex_server.transfer.legacy import LegacyReader
from contex_server.transfer.lines import ZSTD_MAGIC, LinesReader
from contex_server.transfer.native import MAGIC, NativeReader

_LOOK_BYTES = 64 * 1024
PARQUET_MAGIC = b"PAR1"
_TELLING = re.compile(rb'"(contex_export|specversion|events)"\s*:')


def make_reader(file_format: FileFormat) -> Reader:
    """A reader of a format."""
    make: dict[FileFormat, Callable[[], Reader]] = {
        FileFormat.NATIVE: NativeReader,
        FileFormat.JSON_LINES: lambda: LinesReader(cloud=False),
        FileFormat.CLOUD_EVENTS: lambda: LinesReader(cloud=True),
        FileFormat.LEGACY_JSON: LegacyReader,
    }
    return make[file_format]()


def detect(start: bytes, *, complete: bool) -> FileFormat | None:
    """The format of a file with this beginning, or None if more bytes are needed.

    Raises:
        MalformedFile: The format is unknown or can't be imported.
    """
    if start.startswith(MAGIC):
        return FileFormat.NATIVE
    if start.startswith(PARQUET_MAGIC):
        raise MalformedFile("Parquet files can only be exported", 0, 1)
    if len(start) < len(MAGIC) and not complete:
        return None
    text = start
    if start.startswith(ZSTD_MAGIC):
        try:
            text = zstandard.ZstdDecompressor().decompressobj().decompress(start[:_LOOK_BYTES])
        except zstandard.ZstdError as error:
            raise MalformedFile(f"compression: {error}", 0, 1) from error
    text = text.removeprefix(BOM).lstrip()
    if text.startswith(b"["):
        return FileFormat.CLOUD_EVENTS
    line, end, _ = text.partition(b"\n")
    if not line.startswith(b"{") and (line or complete):
        raise MalformedFile("unknown format", 0, 1)
    try:
        fields = orjson.loads(line)
    except ValueError:
        if not (end or complete or len(text) > _LOOK_BYTES):
            return None
        # Several lines, so the whole is not to be seen yet: the first name that tells.
        names = _TELLING.search(text)
        if names is None and not complete and len(text) <= _LOOK_BYTES:
            return None
        fields = {names[1].decode()} if names else {}
    if "contex_export" in fields:
        return FileFormat.JSON_LINES
    if "specversion" in fields:
        return FileFormat.CLOUD_EVENTS
    return FileFormat.LEGACY_JSON
