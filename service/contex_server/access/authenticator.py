"""Who calls: by an API key, a token of an issuer, or a client certificate."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from math import inf

from contex_server.access.credentials import parse_key
from contex_server.access.directory import Directory
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.principal import Credential, Principal

_BEARER = "bearer "
_REMEMBERED, _REMEMBERED_CHARS = 10_000, 128
"""How many headers are remembered, and how long they are: spaces don't make another key."""


@dataclass(slots=True, eq=False)
class Authenticator:
    """Proves who calls.

    Attributes:
        verify: Verifies a token of an issuer; None where none is trusted.
        holder_of: Whom a client certificate names; None if nobody.
    """

    directory: Directory
    verify: Callable[[str], Awaitable[Principal]] | None = None
    holder_of: Callable[[Mapping[str, list[bytes]]], Principal | None] | None = None
    _known: dict[str, Principal] = field(default_factory=dict, init=False)
    """Whom keys were found to be of; those that are no longer valid are dropped as they change."""
    _known_version: int = field(default=-1, init=False)

    async def authenticate(
        self, authorization: str, certificate: Mapping[str, list[bytes]]
    ) -> Principal:
        """Who calls.

        Args:
            authorization: The header; "" if there is none.
            certificate: What the transport says of the client's certificate, which it has verified.

        Raises:
            ContexError: UNAUTHENTICATED.
        """
        if self._known_version != self.directory.version:
            self._known.clear()
            self._known_version = self.directory.version
        if (principal := self._known.get(authorization)) is not None:
            check_valid(principal, self.directory)
            self.directory.used(principal.key_id)
            return principal
        if authorization:
            if authorization[: len(_BEARER)].lower() != _BEARER:
                raise unauthenticated(
                    "INVALID", "authorization must be 'Bearer ' and a key or token"
                )
            return await self._bearer(authorization)
        if certificate and self.holder_of is not None:
            if (holder := self.holder_of(certificate)) is not None:
                check_valid(holder, self.directory)
                return holder
            raise unauthenticated("INVALID", "the client certificate names no identity")
        raise unauthenticated(
            "MISSING", "send the metadata 'authorization' with an API key or a token"
        )

    async def _bearer(self, authorization: str) -> Principal:
        text = authorization[len(_BEARER) :].strip()
        secret = parse_key(text)
        if secret is None:
            if text.startswith("ctx_") or self.verify is None:
                raise unauthenticated("INVALID", "this is no API key of this deployment")
            return await self.verify(text)
        key = self.directory.key(secret.key_id)
        if not secret.fits("" if key is None else key.digest) or key is None:
            raise unauthenticated("INVALID", "this is no API key of this deployment")
        principal = Principal(
            key.identity,
            key.tenant,
            Credential.API_KEY,
            key.key_id,
            expires_s=key.expires_ms / 1000 if key.expires_ms else None,
        )
        check_valid(principal, self.directory)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        if len(authorization) <= _REMEMBERED_CHARS:
            self._known[authorization] = principal
        self.directory.used(key.key_id)
        return principal


def check_valid(principal: Principal, directory: Directory) -> None:
    """Checks that what proved an identity still does.

    Raises:
        ContexError: UNAUTHENTICATED.
    """
    key = None
    if principal.credential is Credential.API_KEY:
        key = directory.key(principal.key_id)
        if key is None or key.revoked_ms:
            raise unauthenticated("REVOKED", f"the key ctx_{principal.key_id} was revoked")
    until_s = principal.expires_s if key is None else key.expires_ms / 1000
    if until_s and time.time() >= until_s:
        raise unauthenticated("EXPIRED", "the key, token or certificate has expired")


def valid_until_s(principal: Principal, directory: Directory) -> float:
    """Until when a credential is valid, in unix seconds: of a key, as it is now, for one that is
    rotated ends sooner than when a stream was opened with it."""
    key = directory.key(principal.key_id) if principal.key_id else None
    if key is not None:
        return key.expires_ms / 1000 if key.expires_ms else inf
    return inf if principal.expires_s is None else principal.expires_s


def unauthenticated(cause: str, problem: str) -> ContexError:
    """A call without valid credentials."""
    return ContexError(
        Reason.UNAUTHENTICATED, f"unauthenticated: {problem}", metadata={"cause": cause}
    )
