"""Whom a client's certificate names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Literal, TypeAlias

from contex_server.kernel.names import IDENTITY
from contex_server.kernel.principal import Credential, Principal

Part: TypeAlias = Literal["uri", "dns", "email", "cn"]
PREFIX = "cert:"
"""Before the name, so that a certificate's holder is nobody else."""
_PROPERTIES: dict[Part, str] = {
    "uri": "peer_uri",
    "dns": "peer_dns",
    "email": "peer_email",
    "cn": "x509_common_name",
}


def holder_of(context: Mapping[str, Iterable[bytes]], part: Part | None = None) -> Principal | None:
    """Who holds a connection's client certificate, for as long as that is valid; see
    `identity_of`. None where it names nobody."""
    identity = identity_of(context, part)
    if not identity:
        return None
    expires_s = _expires_s(_first(context, "x509_pem_cert"))
    return Principal(identity, credential=Credential.CERTIFICATE, expires_s=expires_s)


@lru_cache(maxsize=4_096)
def _expires_s(pem: bytes) -> float:
    """When a certificate ends, which TLS checks at the beginning of a connection only."""
    from cryptography import x509  # Without TLS, nobody needs it.

    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()


def identity_of(context: Mapping[str, Iterable[bytes]], part: Part | None = None) -> str:
    """The identity of a connection's client certificate, such as "cert:spiffe://acme/billing".

    Args:
        context: gRPC's auth context of the call. It has a certificate only where the server asked
            for one, and then TLS has verified it.
        part: Which part of it is the identity, the first of its kind; None: the first URI, else
            the common name.

    Returns:
        "" where there is no certificate, or it lacks that part, or what is there is no valid
        identity.
    """
    if _first(context, "transport_security_type") != b"ssl" or "x509_pem_cert" not in context:
        return ""
    parts: tuple[Part, ...] = ("uri", "cn") if part is None else (part,)
    for one in parts:
        if value := _first(context, _PROPERTIES[one]):
            try:
                identity = PREFIX + value.decode()
            except UnicodeDecodeError:
                return ""
            # Not the next part: a name that is too long makes nobody somebody else.
            return identity if IDENTITY.fits(identity) else ""
    return ""


def _first(context: Mapping[str, Iterable[bytes]], name: str) -> bytes:
    return next(iter(context.get(name, ())), b"")
