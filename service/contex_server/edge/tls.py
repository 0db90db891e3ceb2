"""TLS of a server: what gRPC gets, read again when the files change.

gRPC asks for the certificate at the beginning of each handshake. Connections that are open keep
theirs, so a change ends none.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Self

import grpc
import structlog

from contex_server.edge.certificate_files import (
    Certificate,
    Contents,
    TlsFiles,
    UnusableCertificate,
    check,
    files_of,
    read,
    self_signed,
)
from contex_server.kernel.config import Settings
from contex_server.kernel.errors import StartupError

log = structlog.get_logger(__name__)

_WATCH_S = 10.0
_WARN_DAYS = 14
_WARN_AGAIN_S = 24 * 3600.0
_REMAKE_S = 3600.0
_SETTLED_NS = 2_000_000_000
"""Younger files are read again, for a second change may have the same time."""


class Tls:
    """The certificate of a server, and which clients' it takes.

    Args:
        files: Where it is.
        remake: Makes it anew, if it is to be.

    Raises:
        StartupError: It can't be served.
    """

    def __init__(self, files: TlsFiles, remake: Callable[[], object] | None = None) -> None:
        self._files = files
        self._remake = remake
        self._reading = threading.Lock()
        self._warned_at: float | None = None
        self._seen = _signature(files)
        self._tried: Contents | None = None
        try:
            self._tried = read(files)
            self.certificate = check(files, self._tried)
        except UnusableCertificate as error:
            raise StartupError(str(error)) from error
        self._log_use()

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """That of the settings; None for plain text."""
        files = files_of(settings)
        if files is None or not settings.tls_self_signed:
            return None if files is None else cls(files)
        remake = partial(self_signed, settings.data_dir, settings.host)
        try:
            remake()
        except OSError as error:
            raise StartupError(f"can't make a certificate: {error}") from error
        return cls(files, remake)

    def credentials(self, *, client_certificates: bool) -> grpc.ServerCredentials:
        """What a port of gRPC needs.

        Args:
            client_certificates: Whether clients have to have a certificate. gRPC has nothing
                between: at a port that does not require them it does not ask for any.
        """
        given = self.certificate

        def changed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            current = self.refresh()
            if current is given:
                return None
            given = current
            return _configuration(given)

        # None: it has not changed, which the types leave out.
        return grpc.dynamic_ssl_server_credentials(
            _configuration(given),
            changed,  # type: ignore[arg-type]
            require_client_authentication=client_certificates,
        )

    def expires_s(self) -> float:
        """When the certificate in use expires, in unix time; from any thread."""
        return self.certificate.expires.timestamp()

    def refresh(self) -> Certificate:
        """The certificate to serve, after a look at the files; from any thread.

        One that can't be served is logged, and the one before stays in use.
        """
        if not self._reading.acquire(blocking=False):
            return self.certificate
        try:
            signature = _signature(self._files)
            if signature == self._seen and _settled(signature):
                return self.certificate
            self._seen = signature
            contents = read(self._files)
            if contents != self._tried:
                self._tried = contents
                self.certificate = check(self._files, contents)
                self._warned_at = None
                self._log_use()
        except UnusableCertificate as error:
            self._log_kept(error)
        finally:
            self._reading.release()
        return self.certificate

    async def watch(self) -> None:
        """Looks at the files also while nobody connects, and warns before the end."""
        remade_at = time.monotonic()
        while True:
            await asyncio.sleep(_WATCH_S)
            if self._remake is not None and time.monotonic() - remade_at > _REMAKE_S:
                remade_at = time.monotonic()
                with suppress(
                    OSError
                ):  # It is tried again long before the end, which is warned of.
                    await asyncio.to_thread(self._remake)
            self.refresh()
            self._warn()

    def _log_kept(self, error: UnusableCertificate) -> None:
        log.error(
            "tls_certificate_not_taken",
            error=str(error),
            in_use=self.certificate.subject,
            expires=self.certificate.expires.isoformat(),
        )

    def _log_use(self) -> None:
        certificate = self.certificate
        log.info(
            "tls_certificate",
            file=str(self._files.cert),
            subject=certificate.subject,
            names=list(certificate.names),
            expires=certificate.expires.isoformat(),
            client_ca=None if self._files.client_ca is None else str(self._files.client_ca),
        )
        self._warn()

    def _warn(self) -> None:
        left = self.certificate.expires - datetime.now(UTC)
        now = time.monotonic()
        recently = self._warned_at is not None and now - self._warned_at < _WARN_AGAIN_S
        if left.days >= _WARN_DAYS or recently:
            return
        self._warned_at = now
        log.warning(
            "tls_certificate_expires",
            subject=self.certificate.subject,
            expires=self.certificate.expires.isoformat(),
            days=left.days,
        )


def _configuration(certificate: Certificate) -> grpc.ServerCertificateConfiguration:
    contents = certificate.contents
    pairs = [(contents.key, contents.cert)]
    return grpc.ssl_server_certificate_configuration(pairs, root_certificates=contents.client_ca)


_Signature = tuple[tuple[int, int, int] | None, ...]


def _signature(files: TlsFiles) -> _Signature:
    """What changes when a file does, a link's target included."""
    found: list[tuple[int, int, int] | None] = []
    for path in (files.cert, files.key, files.client_ca):
        try:
            stat = None if path is None else path.stat()
        except OSError:
            stat = None
        found.append(None if stat is None else (stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(found)


def _settled(signature: _Signature) -> bool:
    now = time.time_ns()
    return all(one is None or abs(now - one[0]) > _SETTLED_NS for one in signature)
