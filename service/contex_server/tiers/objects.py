"""Objects by name: a directory, S3, GCS or Azure, through obstore."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import AzureStore, GCSStore, LocalStore, ObjectStore, S3Store, from_url

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.secret_files import private_directory
from contex_server.kernel.telemetry import cleaned_text, shown_url

T = TypeVar("T")

_TIMEOUT_S = 60.0
"""Of one operation with its retries. A request has the library's own timeout, 30 s by default."""
_RETRY: Any = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=3),
        "base": 2,
    },
}


class ObjectMissing(Exception):
    """There is no such object."""


class Objects:
    """Whole objects that are written once.

    Every method raises `ContexError` with ARCHIVE_UNAVAILABLE when the storage fails.
    """

    def __init__(self, store: ObjectStore, url: str) -> None:
        self._store = store
        self.url = url
        self._root = Path(str(store.prefix)) if isinstance(store, LocalStore) else None

    @classmethod
    def open(cls, url: str) -> Objects:
        """Opens `file:///path`, `s3://bucket/prefix`, `gs://…`, `az://…`.

        Credentials, endpoints, timeouts, proxies and the like come from the environment, as
        the library reads it (AWS_*, GOOGLE_*, AZURE_*).

        Raises:
            ValueError: The URL names no supported storage, or a variable can't be used.
        """
        shown = repr(shown_url(url))
        for character in "#?":
            # Neither has a meaning here, and what follows it would be dropped without a word.
            if character in url:
                raise ValueError(f"{shown}: write {character!r} as %{ord(character):02X}")
        try:
            parts = urlsplit(url)
        except ValueError:  # It may quote a password.
            raise ValueError(f"{shown}: brackets are for IPv6 addresses") from None
        if parts.scheme == "file":
            path = Path(os.fsdecode(unquote_to_bytes(parts.path)))
            if parts.netloc or not path.is_absolute():
                raise ValueError(f"{shown}: a directory is named file:///absolute/path")
            private_directory(path)
            return cls(LocalStore(path), url)
        try:
            # No client options: any of them would replace all that the environment has.
            store = from_url(url, retry_config=_RETRY)
        except (BaseError, ValueError) as error:
            raise ValueError(f"{shown}: {_told(error)}") from error
        if not isinstance(store, S3Store | GCSStore | AzureStore):
            raise ValueError(f"{shown}: an archive's URL starts with file, s3, gs or az")
        return cls(store, url)

    async def put(self, name: str, data: bytes) -> None:
        """Stores an object, so that it is there when this returns."""
        await self._run(lambda: obstore.put_async(self._store, name, data))
        if self._root is not None:
            # The library renames a complete file into place, and leaves it in the cache.
            await asyncio.to_thread(_sync, self._root / name, self._root)

    async def get(self, name: str) -> bytes:
        """A whole object.

        Raises:
            ObjectMissing: It is not there.
        """

        async def get() -> bytes:
            result = await obstore.get_async(self._store, name)
            return bytes(await result.bytes_async())

        data: bytes = await self._run(get)
        return data

    async def get_range(self, name: str, start: int, end: int) -> bytes:
        """The bytes [start, end) of an object.

        Raises:
            ObjectMissing: It is not there.
        """
        return bytes(
            await self._run(
                lambda: obstore.get_range_async(self._store, name, start=start, end=end)
            )
        )

    async def list(self, prefix: str) -> dict[str, int]:
        """The names of the objects below a prefix, which ends at a "/", and their sizes."""

        async def collect() -> dict[str, int]:
            sizes: dict[str, int] = {}
            async for page in obstore.list(self._store, prefix):
                sizes.update({meta["path"]: meta["size"] for meta in page})
            return sizes

        names: dict[str, int] = await self._run(collect)
        return names

    async def delete(self, name: str) -> None:
        """Deletes an object; one that is not there is no error."""
        with suppress(ObjectMissing):
            await self._run(lambda: obstore.delete_async(self._store, name))

    async def _run(self, call: Callable[[], Any]) -> Any:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await call()
        except (NotFoundError, FileNotFoundError) as error:
            raise ObjectMissing(str(error)) from error
        except (BaseError, OSError, TimeoutError) as error:
            raise archive_unavailable(error) from error


def archive_unavailable(cause: object) -> ContexError:
    """The archive's storage can't be reached or refuses."""
    return ContexError(
        Reason.ARCHIVE_UNAVAILABLE,
        f"the archive is unavailable: {_told(cause)}",
        retry_after_ms=1_000,
    )


def _told(cause: object) -> str:
    """What an error says, on one line: of obstore's dump of its cause only the innermost part,
    which says what its summary doesn't, such as `InvalidCertificate( UnknownIssuer )`."""
    summary, _, dump = str(cause).partition("Debug source:")
    text = f"{summary} {dump.partition('inner: ')[2]}"
    return cleaned_text(" ".join(text.split()), 600) or type(cause).__name__


def _sync(path: Path, root: Path) -> None:
    """Puts a file, and its name in every directory above it, on disk."""
    for place in (path, *path.parents):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if place == root:
            return
