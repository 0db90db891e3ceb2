"""Values of `contex.v1.TransferService`, and the files that exports write and imports read."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import threading
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ._values.transfer import *
from .backoff import Retry
from .errors import ContexError
from .files import replaced_file
from .lazy import transfer_service_pb2, wire

TAKEOVER_S = 15.0
"""How long an import stays reserved for a server that was killed."""

_CHUNK_BYTES = 512 * 1024
_MAX_HELD_BYTES = 4 * 1024 * 1024


_SUFFIXES = {
    ".ce.jsonl": ExportFormat.CLOUD_EVENTS,
    ".jsonl": ExportFormat.JSON_LINES,
    ".parquet": ExportFormat.PARQUET,
}
"""What a file is by its suffix, unless it says otherwise; anything else is native."""
_COMPRESSED_SUFFIX = ".zst"


def format_of(path: str | os.PathLike[str]) -> ExportFormat:
    """The format of a file by its suffix, compressed or not."""
    name = os.fspath(path).lower().removesuffix(_COMPRESSED_SUFFIX)
    return next((form for s, form in _SUFFIXES.items() if name.endswith(s)), ExportFormat.NATIVE)


def is_compressed(path: str | os.PathLike[str]) -> bool:
    """Whether a file is compressed by its suffix."""
    return os.fspath(path).lower().endswith(_COMPRESSED_SUFFIX)


def to_redactions(redactions: Iterable[Redaction]) -> list[transfer_service_pb2.Redaction]:
    """The messages for redactions."""
    return [
        wire.message(
            transfer_service_pb2.Redaction,
            data_keys=wire.several(redaction.data_keys, "data_keys"),
            json_pointer=redaction.json_pointer,
            action=wire.enum_number(
                RedactionAction, redaction.action, transfer_service_pb2.RedactionAction, "action"
            ),
            replacement=redaction.replacement,
        )
        for redaction in redactions
    ]


def import_delay(retry: Retry, failure: ContexError) -> float:
    """Seconds until an import is resumed.

    Raises:
        ContexError: `failure` itself, if it is not resumed.
    """
    if failure.reason == "IMPORT_IN_PROGRESS" and retry.attempt_timeout() > 1.0:
        return 1.0
    return retry.delay_after(failure)


class ExportProgress:
    """Turns the messages of an export into pieces from which it can be resumed.

    A message without a resume token is held back until one with a token comes, so that a resumed
    export never has to take back bytes that were handed out. If that would hold back too much,
    the bytes are handed out and the export can't be resumed any more.
    """

    def __init__(self, request: transfer_service_pb2.ExportProjectRequest) -> None:
        self._request = request
        self.resumable = request.format != transfer_service_pb2.EXPORT_FORMAT_PARQUET
        self._held: list[bytes] = []

    def next_request(self) -> transfer_service_pb2.ExportProjectRequest:
        """The request of the next call."""
        self._held.clear()
        return self._request

    def take(self, message: transfer_service_pb2.ExportProjectResponse) -> Iterator[ExportPiece]:
        """The piece that a message completes, if it does."""
        self._held.append(message.data)
        if message.resume_token:
            self._request.resume_token = message.resume_token
        elif not message.HasField("summary") and self.resumable:
            if sum(map(len, self._held)) < _MAX_HELD_BYTES:
                return
            self.resumable = False
        data = b"".join(self._held)
        self._held.clear()
        yield dataclasses.replace(export_piece(message), data=data)


# -- files ---------------------------------------------------------------------------------------


def export_file(path: str | os.PathLike[str]) -> PartialFile | DirectFile:
    """Opens what an export is written to."""
    file = replaced_file(path)
    return PartialFile(file) if file is not None else DirectFile(path)


class DirectFile:
    """A device or a pipe, written into as it is; an export into it is never resumed."""

    resume_token = ""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._file = self._path.open("wb")

    def write(self, piece: ExportPiece) -> None:
        """Adds a piece."""
        self._file.write(piece.data)

    def complete(self) -> None:
        """Sees to it that everything is written."""
        self._file.flush()

    def close(self) -> None:
        """What was written stays."""
        self._file.close()


class PartialFile:
    """A file that is written as `<path>.part`, and resumed where an earlier attempt ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = self._path.with_name(f"{self._path.name}.part")
        self._note = self._path.with_name(f"{self._path.name}.part.resume")
        self.resume_token = ""
        size = 0
        if self._part.exists() and self._note.exists():
            count, _, token = self._note.read_text().partition(" ")
            if count.isdigit() and self._part.stat().st_size >= int(count):
                size, self.resume_token = int(count), token
        self._file = self._part.open("r+b" if self._part.exists() else "w+b")
        self._file.truncate(size)
        self._file.seek(size)

    def write(self, piece: ExportPiece) -> None:
        """Adds a piece; what was written before it stays, whatever happens."""
        self._file.write(piece.data)
        if piece.resume_token:
            self._file.flush()
            self._note.write_text(f"{self._file.tell()} {piece.resume_token}")

    def complete(self) -> None:
        """Moves the file to its place."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self._path)
        self._note.unlink(missing_ok=True)

    def close(self) -> None:
        """Leaves the file if it can be resumed; of what can't, nothing."""
        self._file.close()
        if not self._note.exists():
            self._part.unlink(missing_ok=True)


class ImportFile:
    """A file to import, read in chunks from any place.

    Attributes:
        import_id: The same whenever the same unchanged path is imported into the same project,
            so that an interrupted import is resumed; for an open file, a new one each time.
    """

    def __init__(self, file: BinaryIO, import_id: str) -> None:
        self._file = file
        self._origin = file.tell()
        self._lock = threading.Lock()  # the sender of a call that broke may still be reading
        self.import_id = import_id

    def read(self, place: int) -> bytes:
        """The chunk at a place; empty at the end."""
        with self._lock:
            self._file.seek(self._origin + place)
            return self._file.read(_CHUNK_BYTES)


@contextlib.contextmanager
def import_file(source: str | os.PathLike[str] | BinaryIO, project: str) -> Iterator[ImportFile]:
    """Opens the source of an import, unless it is open.

    Raises:
        ValueError: The open file can't be read from an earlier place again.
    """
    if not isinstance(source, str | os.PathLike):
        if not source.seekable():
            raise ValueError("source: must be seekable; copy a pipe to a file first")
        yield ImportFile(source, uuid.uuid4().hex)
        return
    path = Path(source)
    stat = path.stat()
    text = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{project}"
    with path.open("rb") as file:
        yield ImportFile(file, hashlib.sha256(text.encode()).hexdigest()[:32])
