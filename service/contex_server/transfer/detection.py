"""Detects the format of a file."""

from __future__ import annotations

import re
from collections.abc import Callable

import orjson

from contex_server.kernel.config import Limits
from contex_server.kernel.inflating import MAGIC as ZSTD_MAGIC
from contex_server.kernel.inflating import Inflater
from contex_server.transfer.cutting import BOM
from contex_server.transfer.items import FileFormat, MalformedFile, Reader
from contex_server.transfer.legacy import LegacyReader
from contex_server.transfer.lines import LinesReader
from contex_server.transfer.native import MAGIC, NativeReader

_LOOK_BYTES = 64 * 1024
PARQUET_MAGIC = b"PAR1"
_TELLING = re.compile(rb'"(contex_export|specversion|events)"\s*:')


def make_reader(file_format: FileFormat, limits: Limits) -> Reader:
    """A reader of a format."""
    make: dict[FileFormat, Callable[[], Reader]] = {
        FileFormat.NATIVE: NativeReader,
        FileFormat.JSON_LINES: lambda: LinesReader(limits, cloud=False),
        FileFormat.CLOUD_EVENTS: lambda: LinesReader(limits, cloud=True),
        FileFormat.LEGACY_JSON: lambda: LegacyReader(limits),
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
            text = _beginning(start[:_LOOK_BYTES])
        except ValueError as error:
            raise MalformedFile(f"compression: {error}", 0, 1) from error
    complete = complete or max(len(start), len(text)) > _LOOK_BYTES
    text = text.removeprefix(BOM).lstrip()
    if text.startswith(b"["):
        return FileFormat.CLOUD_EVENTS
    line, end, _ = text.partition(b"\n")
    if not line.startswith(b"{") and (line or complete):
        raise MalformedFile("unknown format", 0, 1)
    try:
        fields = orjson.loads(line)
    except ValueError:
        if not (end or complete):
            return None
        # Several lines, so the whole is not to be seen yet: the first name that tells.
        names = _TELLING.search(text)
        if names is None and not complete:
            return None
        fields = {names[1].decode()} if names else {}
    if "contex_export" in fields:
        return FileFormat.JSON_LINES
    if "specversion" in fields:
        return FileFormat.CLOUD_EVENTS
    return FileFormat.LEGACY_JSON


def _beginning(compressed: bytes) -> bytes:
    """About the first `_LOOK_BYTES` of a compressed text.

    Raises:
        ValueError: It is damaged.
    """
    text = b""
    for step in Inflater().feed(compressed):
        text += step
        if len(text) > _LOOK_BYTES:
            break
    return text
