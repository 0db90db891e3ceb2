"""Whom a token (JWT) of a trusted issuer names: verified once, then looked up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import jwt
from cachetools import LRUCache
from cryptography.exceptions import UnsupportedAlgorithm

from contex_server.access.issuer_keys import IssuerKeys, KeySet
from contex_server.kernel.config import Issuer
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.names import IDENTITY
from contex_server.kernel.principal import Credential, Principal

MOST_BYTES = 16 * 1024
MOST_GROUPS = 256
_CACHED = 10_000
_HOSTILE = (
    jwt.PyJWTError,
    UnsupportedAlgorithm,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
)
"""What parsing a token may raise that somebody made up."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says of its holder.

    Attributes:
        identity: "<issuer's name>:<subject>".
        groups: Each "group:<issuer's name>:<group>".
        tenant: The tenant, if the issuer's tokens name one.
        expires_s: From then on the token is not valid, in unix time; the leeway is included.
    """

    identity: str
    groups: frozenset[str]
    tenant: str | None
    expires_s: float


@dataclass(frozen=True, slots=True)
class _Verified:
    claims: Claims
    keys: IssuerKeys
    known: KeySet


class TokenVerifier:
    """Verifies tokens of the issuers that are trusted.

    `start` begins to fetch their keys; `close` ends that. Neither waits for an issuer.
    """

    def __init__(self, issuers: Iterable[Issuer], **timing: float) -> None:
        self._issuers = {issuer.issuer: IssuerKeys(issuer, **timing) for issuer in issuers}
        self._verified: LRUCache[bytes, _Verified] = LRUCache(_CACHED)
        self._following: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to fetch keys."""
        self._following = [
            asyncio.create_task(keys.follow(), name="contex-issuer")
            for keys in self._issuers.values()
        ]

    async def close(self) -> None:
        """Ends that."""
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)

    async def verify(self, token: str) -> Claims:
        """Verifies a token.

        Raises:
            ContexError: UNAUTHENTICATED; "cause" is INVALID or EXPIRED.
        """
        if len(token) > MOST_BYTES:
            raise _invalid(f"is longer than {MOST_BYTES:,} bytes")
        try:
            digest = sha256(token.encode("ascii")).digest()
        except UnicodeEncodeError:
            raise _invalid("is no JWT") from None
        if (found := self._verified.get(digest)) is not None:
            # A key that its issuer has withdrawn verifies nothing any more.
            if found.keys.current is found.known and time.time() < found.claims.expires_s:
                return found.claims
            del self._verified[digest]
        verified = await self._verify(token)
        self._verified[digest] = verified
        return verified.claims

    async def holder(self, token: str) -> Principal:
        """Who holds a token, by what it says.

        Raises:
            ContexError: UNAUTHENTICATED; "cause" is INVALID or EXPIRED.
        """
        claims = await self.verify(token)
        return Principal(
            claims.identity,
            claims.tenant or "",
            Credential.TOKEN,
            groups=claims.groups,
            expires_s=claims.expires_s,
        )

    async def _verify(self, token: str) -> _Verified:
        kid, algorithm, issuer = _unverified(token)
        keys = self._issuers.get(issuer)
        if keys is None:
            raise _invalid("is of an issuer that is not trusted")
        settings = keys.issuer
        if algorithm not in settings.algorithms:
            raise _invalid("is signed by an algorithm that is not allowed")
        known = await keys.having(kid)
        if known is None:
            raise ContexError(
                Reason.UNAUTHENTICATED,
                f"the keys of issuer {settings.name!r} could not be fetched; the server's log says "
                "why",
                metadata={"cause": "INVALID"},
                retry_after_ms=1_000,
            )
        try:
            key = known.find(kid, algorithm)
            if key is None:
                raise _invalid("is signed with a key that its issuer does not have")
            payload = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=list(settings.audiences),
                issuer=settings.issuer,
                leeway=settings.leeway_s,
                options={"require": ["exp", "iss", "aud"]},
            )
            return _Verified(_claims(payload, settings), keys, known)
        except jwt.ExpiredSignatureError:
            raise _unauthenticated("the token has expired", "EXPIRED") from None
        except jwt.ImmatureSignatureError:
            raise _invalid("is not valid yet") from None
        except jwt.InvalidAudienceError:
            raise _invalid("is for another audience") from None
        except jwt.MissingRequiredClaimError as error:
            raise _invalid(f"has no {error.claim}") from None
        except jwt.InvalidSignatureError:
            raise _invalid("has a wrong signature") from None
        except _HOSTILE:
            raise _invalid("is no valid JWT") from None


def _unverified(token: str) -> tuple[str | None, str, str]:
    """Key id, algorithm and issuer, of which nothing is known to be true."""
    try:
        parts = jwt.decode_complete(token, options={"verify_signature": False})
        header, issuer = parts["header"], parts["payload"].get("iss")
        kid, algorithm = header.get("kid"), header["alg"]
        unknown = "crit" in header or "b64" in header
    except _HOSTILE:
        raise _invalid("is no JWT") from None
    if unknown or not (isinstance(kid, str | None) and isinstance(algorithm, str)):
        raise _invalid("has a header that is not understood")
    return kid, algorithm, issuer if isinstance(issuer, str) else ""


def _claims(payload: Mapping[str, Any], issuer: Issuer) -> Claims:
    subject = _at(payload, issuer.identity_claim)
    if not isinstance(subject, str) or not subject:
        raise _invalid(f"has no {issuer.identity_claim}")
    # One who may enter any address into his account would be anybody.
    if issuer.identity_claim == "email" and payload.get("email_verified", True) is not True:
        raise _invalid("has an email that is not verified")
    identity = f"{issuer.name}:{subject}"
    if not IDENTITY.fits(identity):
        raise _invalid(f"has a {issuer.identity_claim} that is no valid identity")
    tenant = None
    if issuer.tenant_claim is not None:
        tenant = _at(payload, issuer.tenant_claim)
        if not isinstance(tenant, str) or not IDENTITY.fits(tenant) or not tenant:
            raise _invalid(f"has no valid {issuer.tenant_claim}")
    named = None if issuer.groups_claim is None else _at(payload, issuer.groups_claim)
    groups = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    names = (f"group:{issuer.name}:{group}" for group in groups if isinstance(group, str) and group)
    # What is left out takes rights away and gives none.
    fitting = tuple(name for name in dict.fromkeys(names) if IDENTITY.fits(name))
    expires_s = float(payload["exp"]) + issuer.leeway_s
    return Claims(identity, frozenset(fitting[:MOST_GROUPS]), tenant, expires_s)


def _at(payload: Mapping[str, Any], claim: str) -> Any:
    """A claim by its name, or by a path with dots, such as realm_access.roles."""
    if claim in payload:
        return payload[claim]
    found: Any = payload
    for name in claim.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _invalid(problem: str) -> ContexError:
    return _unauthenticated(f"the token {problem}", "INVALID")


def _unauthenticated(message: str, cause: str) -> ContexError:
    return ContexError(Reason.UNAUTHENTICATED, message, metadata={"cause": cause})
