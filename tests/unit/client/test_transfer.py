from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from contex import ExportPiece, transfer
from contex.files import replaced_file
from contex.v1 import transfer_service_pb2


def test_an_export_is_held_back_until_it_can_be_resumed() -> None:
    request = transfer_service_pb2.ExportProjectRequest(project="p")
    progress = transfer.ExportProgress(request)
    respond = transfer_service_pb2.ExportProjectResponse
    assert list(progress.take(respond(data=b"a"))) == []
    (piece,) = progress.take(respond(data=b"b", resume_token="t", event_count=2))
    assert (piece.data, piece.resume_token, piece.event_count) == (b"ab", "t", 2)
    assert list(progress.take(respond(data=b"lost"))) == []
    assert progress.next_request().resume_token == "t"
    last = respond(data=b"c")
    last.summary.digest = "d"
    (piece,) = progress.take(last)
    assert piece.data == b"c"
    assert piece.summary is not None
    assert piece.summary.digest == "d"
    assert progress.resumable
    (piece,) = progress.take(respond(data=bytes(5 << 20)))  # too much to hold back
    assert len(piece.data) == 5 << 20
    assert not progress.resumable


def test_a_partial_file_is_resumed_at_its_last_token(tmp_path: Path) -> None:
    def piece(data: bytes, token: str) -> ExportPiece:
        return ExportPiece(data, 0, 0, 0, 0, token)

    path = tmp_path / "out"
    file = transfer.PartialFile(path)
    file.write(piece(b"one", "t1"))
    file.write(piece(b"lost", ""))
    file.close()
    file = transfer.PartialFile(path)
    assert file.resume_token == "t1"
    file.write(piece(b"two", "t2"))
    file.complete()
    assert path.read_bytes() == b"onetwo"
    assert list(tmp_path.iterdir()) == [path]


def test_of_a_partial_file_that_cannot_be_resumed_nothing_is_left(tmp_path: Path) -> None:
    file = transfer.PartialFile(tmp_path / "out")
    file.write(ExportPiece(b"one", 0, 0, 0, 0, ""))
    file.close()
    assert list(tmp_path.iterdir()) == []


def test_a_rename_replaces_only_files_and_those_that_symlinks_lead_to(tmp_path: Path) -> None:
    file, there, dangling = tmp_path / "file", tmp_path / "there", tmp_path / "dangling"
    file.touch()
    there.symlink_to(file)
    dangling.symlink_to("folder")
    os.mkfifo(tmp_path / "pipe")
    assert replaced_file(file) == replaced_file(there) == file
    assert replaced_file(dangling) == tmp_path / "folder"
    for special in (tmp_path / "pipe", os.devnull, tmp_path):
        assert replaced_file(special) is None


def test_an_import_of_the_same_file_has_the_same_id(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"0123456789")

    def import_id(source: Path | io.BytesIO, project: str) -> str:
        with transfer.import_file(source, project) as file:
            return file.import_id

    assert import_id(path, "p") == import_id(path, "p") != import_id(path, "q")
    opened = io.BytesIO(b"__0123")
    assert import_id(opened, "p") != import_id(opened, "p")
    opened.seek(2)
    with transfer.import_file(opened, "p") as file:
        assert [file.read(place) for place in (0, 2, 4)] == [b"0123", b"23", b""]


def test_an_open_pipe_is_no_source_of_an_import() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    with (
        open(reader, "rb") as pipe,
        pytest.raises(ValueError, match="must be seekable"),
        transfer.import_file(pipe, "p"),
    ):
        pass
