"""`contex embedder` against a Maven repository on the loopback."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from contex_cli import models
from contex_cli.exits import ExitCode
from contex_cli.models import Model
from contex_server.matching.embedders.local import Use, read

from tests.command_line import Done, invoke
from tests.unit.matching.embedders.test_local import network, tokenizer

NAME = "e5-small-v2"
"""The tiny model takes its place: the command knows the names only."""


def archive(lowercase: bool = False) -> bytes:
    made = json.loads(tokenizer().to_str())
    if lowercase:
        made["normalizer"] = {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": False,
        }
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n")
        jar.writestr("tiny-q.onnx", network())
        jar.writestr("tiny-q-tokenizer.json", json.dumps(made))
    return written.getvalue()


JAR = archive()
TINY = Model(
    NAME,
    "Colours",
    3,
    "CC0-1.0",
    "tiny-embeddings",
    "1.2.3",
    len(JAR),
    hashlib.sha256(JAR).hexdigest(),
    "tiny-q",
    "cls",
    need_prefix="query: ",
    max_tokens=16,
)
PLACE = "/dev/langchain4j/tiny-embeddings/1.2.3/tiny-embeddings-1.2.3.jar"


@dataclass
class Repository:
    """What it has, and how it misbehaves."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=lambda: {PLACE: JAR})
    status: int = 200
    break_after: int | None = None
    ignores_ranges: bool = False
    asked: list[str | None] = field(default_factory=list)  # the range of each request


class Handler(BaseHTTPRequestHandler):
    repository: Repository

    def do_GET(self) -> None:
        there = self.repository
        there.asked.append(self.headers["Range"])
        if there.status != 200 or self.path not in there.files:
            self.send_error(404 if there.status == 200 else there.status)
            return
        content, start = there.files[self.path], 0
        if self.headers["Range"] and not there.ignores_ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : there.break_after])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(models.MODELS, NAME, TINY)
    there = Repository()
    handler = type("Bound", (Handler,), {"repository": there})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    there.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield there
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(there: Repository, into: Path, *more: str) -> Done:
    return invoke("embedder", "fetch", NAME, "--into", str(into), "--from", there.url, *more)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_fetched_model_runs_as_it_wants_to_be_used(
    repository: Repository, tmp_path: Path
) -> None:
    into = tmp_path / "some" / "models"
    done = fetch(repository, into)
    assert done.exit_code == ExitCode.OK
    path = into / NAME
    assert f"contex serve --embedder-path {path}\n" in done.stdout
    assert f"CONTEX_EMBEDDER__KIND=local\n  CONTEX_EMBEDDER__PATH={path}\n" in done.stdout
    assert f"fetched {len(JAR):,} bytes" in done.stderr
    loaded = read(path, Use())
    assert loaded.model_id.startswith(f"{NAME}@")
    assert (loaded.dimension, loaded.need_prefix, loaded.datum_prefix) == (3, "query: ", "")
    assert (loaded.pipeline.pooling, loaded.pipeline.max_tokens) == ("cls", 16)
    assert names(into) == [NAME]


def test_what_is_there_is_not_fetched_again(repository: Repository, tmp_path: Path) -> None:
    assert fetch(repository, tmp_path).exit_code == ExitCode.OK
    done = fetch(repository, tmp_path, "--json")
    assert json.loads(done.stdout)["path"] == str(tmp_path / NAME)
    assert json.loads(done.stdout)["settings"]["CONTEX_EMBEDDER__KIND"] == "local"
    assert len(repository.asked) == 1


def test_another_directory_of_the_name_is_left_alone(
    repository: Repository, tmp_path: Path
) -> None:
    (tmp_path / NAME).mkdir()
    done = fetch(repository, tmp_path)
    assert done.exit_code == ExitCode.USAGE
    assert "exists, and is not tiny-embeddings-1.2.3.jar" in done.stderr
    assert repository.asked == []


@pytest.mark.parametrize("changed", [JAR[:-1] + b"!", JAR + b"!" * 1000])
def test_a_wrong_digest_is_refused(repository: Repository, tmp_path: Path, changed: bytes) -> None:
    repository.files[PLACE] = changed
    done = fetch(repository, tmp_path)
    assert done.exit_code == ExitCode.DAMAGED
    assert f"not {TINY.sha256}; nothing was kept" in done.stderr
    assert names(tmp_path) == []


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_a_broken_download_goes_on(
    repository: Repository, tmp_path: Path, ignores_ranges: bool
) -> None:
    repository.break_after, repository.ignores_ranges = 300, ignores_ranges
    done = fetch(repository, tmp_path)
    assert done.exit_code == ExitCode.UNAVAILABLE
    assert f"ended after 300 of {len(JAR):,} bytes" in done.stderr
    assert "the same command goes on from there" in done.stderr
    assert not (tmp_path / NAME).exists()
    repository.break_after = None
    assert fetch(repository, tmp_path).exit_code == ExitCode.OK
    assert repository.asked == [None, "bytes=300-"]
    assert names(tmp_path) == [NAME]


def test_an_interrupted_unpacking_leaves_no_directory(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(models.MODELS, NAME, replace(TINY, stem="another"))
    assert fetch(repository, tmp_path).exit_code == ExitCode.UNEXPECTED
    assert names(tmp_path) == [".tiny-embeddings-1.2.3.jar.part"]
    monkeypatch.setitem(models.MODELS, NAME, TINY)
    assert fetch(repository, tmp_path).exit_code == ExitCode.OK
    assert len(repository.asked) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, ExitCode.USAGE), (403, ExitCode.USAGE), (503, ExitCode.UNAVAILABLE)],
)
def test_what_the_repository_answers_is_said(
    repository: Repository, tmp_path: Path, status: int, code: ExitCode
) -> None:
    repository.status = status
    done = fetch(repository, tmp_path)
    assert done.exit_code == code
    assert f"{repository.url}{PLACE} answers {status}" in done.stderr
    assert not (tmp_path / NAME).exists()


def test_nobody_there(repository: Repository, tmp_path: Path) -> None:
    repository.url = "http://127.0.0.1:9"
    done = fetch(repository, tmp_path)
    assert done.exit_code == ExitCode.UNAVAILABLE
    assert "can't be reached: " in done.stderr
    repository.url = "ftp://mirror"
    assert "not an http:// or https:// URL" in fetch(repository, tmp_path).stderr


def test_a_proxy_is_used(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", repository.url)
    monkeypatch.delenv("no_proxy", raising=False)
    repository.files = {f"http://maven.invalid{PLACE}": JAR}
    repository.url = "http://maven.invalid/"
    assert fetch(repository, tmp_path).exit_code == ExitCode.OK


def test_the_repository_can_be_set_in_the_environment(
    repository: Repository, tmp_path: Path
) -> None:
    env = {"CONTEX_MODELS_URL": repository.url}
    done = invoke("embedder", "fetch", NAME, "--into", str(tmp_path), env=env)
    assert done.exit_code == ExitCode.OK


def test_where_from_has_to_be_said(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONTEX_MODELS_URL", raising=False)
    done = invoke("embedder", "fetch", NAME, "--into", str(tmp_path))
    assert done.exit_code == ExitCode.USAGE
    assert "Invalid value for --from: needed: the base URL of Maven Central" in done.stderr
    assert names(tmp_path) == []


def test_capitals_are_made_small_where_the_vocabulary_has_none(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jar = archive(lowercase=True)
    digest = hashlib.sha256(jar).hexdigest()
    small = replace(TINY, lowercase=True, bytes=len(jar), sha256=digest)
    monkeypatch.setitem(models.MODELS, NAME, small)
    repository.files[PLACE] = jar
    assert fetch(repository, tmp_path).exit_code == ExitCode.OK
    pipeline = read(tmp_path / NAME, Use()).pipeline
    assert pipeline.tokens(["RED"]) == pipeline.tokens(["red"]) == [[2, 5, 3]]


def test_the_list(repository: Repository, tmp_path: Path) -> None:
    assert fetch(repository, tmp_path).exit_code == ExitCode.OK
    listed = invoke("embedder", "list", "--into", str(tmp_path))
    assert listed.exit_code == ExitCode.OK
    assert "bge-small-en-v1.5" in listed.stdout
    lines = invoke("embedder", "list", "--into", str(tmp_path), "--json").stdout.splitlines()
    found = {record["name"]: record["fetched"] for record in map(json.loads, lines)}
    assert found == dict.fromkeys(models.MODELS, False) | {NAME: True}


def test_the_catalogue_is_pinned() -> None:
    for name, model in models.MODELS.items():
        assert name == model.name
        assert len(bytes.fromhex(model.sha256)) == 32
        assert model.archive.endswith(f"-{model.version}.jar")
