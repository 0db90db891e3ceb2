"""Who makes a call, as it was proved."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Credential(IntEnum):
    """How an identity was proved; the numbers are those of `contex.v1.Credential`."""

    NONE = 0
    API_KEY = 1
    TOKEN = 2
    CERTIFICATE = 3


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a call.

    Attributes:
        identity: The name; "" where access is off.
        tenant: The tenant of its key; "" if it has none, or is known by its bindings alone.
        key_id: The API key, if it was one.
        groups: The groups that its token names, as bindings name them.
        expires_s: Until when the credential is valid, in unix seconds; None: for ever.
    """

    identity: str = ""
    tenant: str = ""
    credential: Credential = Credential.NONE
    key_id: str = ""
    groups: frozenset[str] = frozenset()
    expires_s: float | None = None


ANYBODY = Principal()
"""Everyone, where access is off."""
