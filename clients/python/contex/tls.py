"""TLS: which targets speak it, which certificates are used, and why a handshake fails."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from .channel import is_local

if TYPE_CHECKING:
    import grpc

SECURE, PLAIN = "contexs://", "contex://"
_ROOTS_OF_GRPC = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"
_PEM = b"-----BEGIN "


class Tls:
    """How a server is verified, and what the client shows of itself. All files are in PEM.

    Args:
        ca: The authorities whose servers are trusted, or a self-signed certificate; None:
            CONTEX_TLS_CA, else those of the system, and for a server on this machine `tls.crt` in
            $CONTEX_DATA_DIR or ./data, where one with a self-signed certificate keeps it.
        cert: The client's certificate, with its chain, where the server asks for one; None:
            CONTEX_TLS_CLIENT_CERT, else none.
        key: Its private key, without a passphrase; None: CONTEX_TLS_CLIENT_KEY.
        server_name: The name in the server's certificate, if it is not the one in the target.
    """

    def __init__(
        self,
        ca: str | os.PathLike[str] | None = None,
        cert: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        server_name: str = "",
    ) -> None:
        self.ca, self.cert, self.key, self.server_name = ca, cert, key, server_name

    @property
    def options(self) -> list[tuple[str, str]]:
        """Options for the channel."""
        name = self.server_name
        return [("grpc.ssl_target_name_override", name)] if name else []

    def credentials(self, target: str) -> grpc.ChannelCredentials:
        """What a channel needs.

        Args:
            target: Where it is to, without a scheme.

        Raises:
            OSError: A file can't be read.
            ValueError: What is in one can't be used.
        """
        import grpc

        ca = self.ca or os.environ.get("CONTEX_TLS_CA")
        cert = self.cert or os.environ.get("CONTEX_TLS_CLIENT_CERT")
        key = self.key or os.environ.get("CONTEX_TLS_CLIENT_KEY")
        if bool(cert) != bool(key):
            given, missing = ("certificate", "key") if cert else ("key", "certificate")
            raise ValueError(f"tls: a client's {given} needs its {missing}")
        roots = _authorities(ca) if ca else _roots_for(target)
        if not (cert and key):
            return grpc.ssl_channel_credentials(roots)
        return grpc.ssl_channel_credentials(roots, *_own(cert, key))


def split_target(target: str, tls: Tls | None = None) -> tuple[str, Tls | None]:
    """What gRPC calls, and TLS if it is to be used: contexs:// asks for it, contex:// for none.

    Raises:
        ValueError: The target is contex://, and TLS was asked for.
    """
    if not isinstance(target, str):
        return target, tls
    scheme, separator, rest = target.partition("://")
    scheme = scheme.lower() + separator
    if scheme == SECURE:
        return rest.rstrip("/"), tls or Tls()
    if scheme != PLAIN:
        return target, tls
    if tls is not None:
        raise ValueError(f"target: {target!r} asks for plain text; TLS is contexs://")
    return rest.rstrip("/"), None


def handshake_problem(details: str, secure: bool | None = None) -> str:
    """Why no connection came about, for people; empty if TLS had no part in it.

    Args:
        details: What gRPC says.
        secure: Whether the client spoke TLS; None if that is unknown.
    """
    if "failed to connect to all addresses" not in details:
        return ""
    for pattern, problem in _PROBLEMS:
        if pattern.search(details):
            return problem
    if not _CLOSED.search(details):
        return ""
    if secure is None:
        return f"{_CLOSES}: {_SPEAKS}, or it {_REQUIRES}"
    return f"{_CLOSES}: {_SPEAKS}" if not secure else f"{_CLOSES}: perhaps it {_REQUIRES}"


_CLOSED = re.compile(r"socket closed|connection reset|endpoint closed|broken pipe", re.IGNORECASE)
_CLOSES = "the server closes the connection"
_SPEAKS = "perhaps it speaks TLS, which a target asks for with contexs://"
_REQUIRES = (
    "requires a client certificate, valid and of an authority that it trusts "
    "(CONTEX_TLS_CLIENT_CERT, CONTEX_TLS_CLIENT_KEY)"
)
_PROBLEMS = tuple(
    (re.compile(pattern, re.IGNORECASE), problem)
    for pattern, problem in (
        (
            "hostname verification check failed",
            "the server's certificate is for another host name than the target's",
        ),
        ("certificate has expired", "the server's certificate has expired"),
        ("certificate is not yet valid", "the server's certificate is not valid yet"),
        (
            "certificate_verify_failed",
            "the server's certificate is of an authority that is not trusted; CONTEX_TLS_CA names "
            "a file with the one to trust",
        ),
        (
            "wrong_version_number",
            "the server does not speak TLS here; a target without it is contex://",
        ),
        ("ssl_error|tls handshake|security handshaker", "the TLS handshake failed"),
    )
)


def _authorities(path: str | os.PathLike[str]) -> bytes:
    import ssl

    pem = Path(path).read_bytes()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise ValueError(f"tls: {os.fspath(path)!r} holds no certificate in PEM") from None
    return pem


def _own(cert: str | os.PathLike[str], key: str | os.PathLike[str]) -> tuple[bytes, bytes]:
    """The client's key and certificate."""
    import ssl

    def refuse() -> str:
        raise ValueError(f"tls: {os.fspath(key)!r} has a passphrase; store it without one")

    chain, private = Path(cert).read_bytes(), Path(key).read_bytes()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, refuse)
    except ssl.SSLError as error:
        fits = "KEY_VALUES_MISMATCH" not in str(error)
        problem = "are no certificate and key in PEM" if fits else "do not belong together"
        files = f"{os.fspath(cert)!r} and {os.fspath(key)!r}"
        raise ValueError(f"tls: {files} {problem}") from None
    return private, chain


def _roots_for(target: str) -> bytes | None:
    roots = _system_roots()
    own = os.path.join(os.environ.get("CONTEX_DATA_DIR") or "data", "tls.crt")
    if not (is_local(target) and os.path.exists(own)):
        return roots
    return b"\n".join(filter(None, (roots, _authorities(own))))


@cache
def _system_roots() -> bytes | None:
    """The authorities that Python's ssl trusts; None: gRPC's own list, if there are none."""
    if os.environ.get(_ROOTS_OF_GRPC):
        return None
    import ssl

    paths = ssl.get_default_verify_paths()
    pem = b"".join(_readable(Path(paths.cafile))) if paths.cafile else b""
    if not pem and paths.capath:
        found = (pem for path in sorted(Path(paths.capath).iterdir()) for pem in _readable(path))
        pem = b"\n".join(dict.fromkeys(found))  # each is there twice, once under its hash
    if not pem:  # Windows
        known = ssl.create_default_context().get_ca_certs(binary_form=True)
        pem = "".join(map(ssl.DER_cert_to_PEM_cert, known)).encode()
    return pem or None


def _readable(path: Path) -> Iterator[bytes]:
    """A file's content, if it has certificates."""
    try:
        content = path.read_bytes()
    except OSError:
        return
    if _PEM in content:
        yield content
