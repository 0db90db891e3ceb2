"""Certificates of the tests' own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

LOOPBACK = (x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1")))


class Pair(NamedTuple):
    """The files of a certificate and its key."""

    cert: Path
    key: Path

    @property
    def settings(self) -> dict[str, Any]:
        """Those of a server that serves it."""
        return {"tls_cert": self.cert, "tls_key": self.key}

    @property
    def serial(self) -> int:
        return x509.load_pem_x509_certificate(self.cert.read_bytes()).serial_number

    def replace(self, other: Pair) -> None:
        """Puts another's files in the place of these."""
        for mine, theirs in zip(self, other, strict=True):
            new = mine.with_suffix(".new")
            new.write_bytes(theirs.read_bytes())
            new.replace(mine)


@dataclass
class Authority:
    """Issues certificates."""

    directory: Path
    name: str
    key: Any
    certificate: x509.Certificate

    @classmethod
    def new(cls, directory: Path, name: str = "authority") -> Self:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(name, key.public_key(), name, -1, 30)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, SHA256())
        )
        authority = cls(directory, name, key, certificate)
        authority.file.write_bytes(certificate.public_bytes(Encoding.PEM))
        return authority

    @property
    def file(self) -> Path:
        return self.directory / f"{self.name}.pem"

    def issue(
        self,
        name: str,
        names: Sequence[x509.GeneralName] = (),
        *,
        days: tuple[float, float] = (-1, 30),
        key: Any = None,
        passphrase: bytes | None = None,
    ) -> Pair:
        """A certificate, valid from and to so many days from now."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, key.public_key(), self.name, *days)
        if names:
            extension = x509.SubjectAlternativeName(names)
            builder = builder.add_extension(extension, critical=False)
        certificate = builder.sign(self.key, SHA256())
        pair = Pair(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        pair.cert.write_bytes(certificate.public_bytes(Encoding.PEM))
        sealing = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealing))
        return pair

    def server(self, name: str = "server", **options: Any) -> Pair:
        """A certificate for this machine."""
        return self.issue(name, LOOPBACK, **options)


def _builder(name: str, key: Any, issuer: str, start: float, end: float) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=start))
        .not_valid_after(now + timedelta(days=end))
    )
