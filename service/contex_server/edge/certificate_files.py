"""The files of TLS: read, checked so that clients will take what is served, and made."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from contex_server.kernel.config import Settings
from contex_server.kernel.errors import StartupError

SELF_SIGNED_DAYS = 365
REMADE_DAYS = 30
"""A self-signed certificate is made anew when it is valid for less than this."""
CERTIFICATE_FILE = "tls.crt"
"""What clients are to trust, in the data directory."""
_SERVED_FILE = "tls.pem"
"""Key and certificate in one file, so that nobody sees one without the other."""
_CURVES = (ec.SECP256R1, ec.SECP384R1)
_NAMES = 20


class UnusableCertificate(Exception):
    """What is in the files can't be served; `str()` says why, and names the setting."""


@dataclass(frozen=True)
class TlsFiles:
    """Where they are."""

    cert: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True)
class Contents:
    """What the files hold."""

    cert: bytes
    key: bytes
    client_ca: bytes | None


@dataclass(frozen=True)
class Certificate:
    """A certificate that was checked.

    Attributes:
        contents: Of its files.
        subject: Whom it names.
        names: The hosts that it is for, at most 20.
        expires: From then on clients refuse it.
    """

    contents: Contents
    subject: str
    names: tuple[str, ...]
    expires: datetime


def files_of(settings: Settings) -> TlsFiles | None:
    """Where the settings have them; None for plain text."""
    if settings.tls_self_signed:
        path = settings.data_dir / _SERVED_FILE
        return TlsFiles(path, path, settings.tls_client_ca)
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def check_settings(settings: Settings) -> None:
    """Checks the certificate that the settings name, before anything is opened.

    Raises:
        StartupError: It can't be served.
    """
    files = files_of(settings)
    try:
        if files is not None and settings.tls_self_signed:
            self_signed(settings.data_dir, settings.host)
        if files is not None:
            check(files, read(files))
    except UnusableCertificate as error:
        raise StartupError(str(error)) from error
    except OSError as error:
        raise StartupError(f"can't make a certificate: {error}") from error


def read(files: TlsFiles) -> Contents:
    """Reads the files.

    Raises:
        UnusableCertificate: One can't be read.
    """
    client_ca = None if files.client_ca is None else _read("client-ca", files.client_ca)
    return Contents(_read("cert", files.cert), _read("key", files.key), client_ca)


def check(files: TlsFiles, contents: Contents) -> Certificate:
    """Checks what the files hold.

    Raises:
        UnusableCertificate: A client would refuse it, or gRPC.
    """
    cert = f"--tls-cert {files.cert}"
    chain = _certificates(cert, contents.cert)
    first = chain[0]
    _check_key(f"--tls-key {files.key}", contents.key, chain)
    if problem := _out_of_time(first):
        raise UnusableCertificate(f"{cert}: {problem}")
    if files.client_ca is not None:
        option = f"--tls-client-ca {files.client_ca}"
        problems = [_out_of_time(one) for one in _certificates(option, contents.client_ca or b"")]
        if all(problems):
            raise UnusableCertificate(f"{option}: {problems[0]}")
    return Certificate(
        contents,
        first.subject.rfc4514_string(),
        tuple(_names(first)[:_NAMES]),
        first.not_valid_after_utc,
    )


def self_signed(directory: Path, host: str) -> None:
    """Makes a self-signed certificate in a directory, unless there is one that is still good.

    Args:
        directory: Of the data.
        host: Where the server listens: the certificate is for it, this machine's name, localhost
            and the loopback addresses.

    Raises:
        OSError: It can't be written.
    """
    path = directory / _SERVED_FILE
    files = TlsFiles(path, path)
    hosts = _hosts(host)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "tls.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = _still_good(files, hosts)
        if made is None:
            key, made = _make(hosts)
            _write(path, key + made, 0o600)
        if not _holds(directory / CERTIFICATE_FILE, made):
            _write(directory / CERTIFICATE_FILE, made, 0o644)


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        why = error.strerror or error
        raise UnusableCertificate(f"--tls-{option} {path}: can't be read: {why}") from error


def _certificates(option: str, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise UnusableCertificate(f"{option}: is no certificate in PEM") from None


def _check_key(option: str, pem: bytes, chain: Sequence[x509.Certificate]) -> None:
    try:
        key = load_pem_private_key(pem, None)
    except TypeError:
        raise UnusableCertificate(f"{option}: has a passphrase; store it without one") from None
    except Exception:  # The library has several; none may quote the key.
        raise UnusableCertificate(f"{option}: is no private key in PEM") from None
    public = key.public_key()
    if chain[0].public_key() != public:
        order = "; its certificate has to come first" if _has_key(chain, public) else ""
        raise UnusableCertificate(f"{option}: does not fit the certificate{order}")
    usable = isinstance(key, rsa.RSAPrivateKey) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES)
    )
    if not usable:
        # A client by gRPC for Python offers no others: each of its handshakes would fail.
        raise UnusableCertificate(f"{option}: gRPC takes RSA, ECDSA P-256 and P-384 only")


def _has_key(chain: Sequence[x509.Certificate], public: object) -> bool:
    return any(one.public_key() == public for one in chain)


def _out_of_time(certificate: x509.Certificate) -> str:
    now = datetime.now(UTC)
    if now >= certificate.not_valid_after_utc:
        return f"expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC"
    if now < certificate.not_valid_before_utc:
        return f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC"
    return ""


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return []
    dns = extension.value.get_values_for_type(x509.DNSName)
    return [*dns, *map(str, extension.value.get_values_for_type(x509.IPAddress))]


def _hosts(host: str) -> list[str]:
    hosts = ["localhost", "127.0.0.1", "::1", socket.gethostname(), host.strip("[]")]
    return [one for one in dict.fromkeys(hosts) if _is_name(one)]


def _is_name(host: str) -> bool:
    """Whether clients can call a server by it."""
    try:
        return str(_general_name(host).value) not in ("", "0.0.0.0", "::")
    except ValueError:  # no name of a host, such as a label of 64 characters
        return False


def _still_good(files: TlsFiles, hosts: Sequence[str]) -> bytes | None:
    """The certificate that is there, in PEM, if it will do."""
    try:
        found = check(files, read(files))
    except UnusableCertificate:
        return None
    if found.expires - datetime.now(UTC) < timedelta(days=REMADE_DAYS):
        return None
    if not {str(_general_name(host).value) for host in hosts} <= set(found.names):
        return None
    return _certificates("", found.contents.cert)[0].public_bytes(Encoding.PEM)


def _make(hosts: Sequence[str]) -> tuple[bytes, bytes]:
    """A key and its certificate, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Contex, self-signed")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks of clients may be behind.
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False
        )
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private, certificate.public_bytes(Encoding.PEM)


def _general_name(host: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ip_address(host.partition("%")[0]))
    except ValueError:
        return x509.DNSName(host.encode("idna").decode())


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def _write(path: Path, content: bytes, mode: int) -> None:
    """Puts a file into place whole, never readable by others than its mode says."""
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
