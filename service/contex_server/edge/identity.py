"""Who makes a call, as far as its headers and its connection say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote

from contex_server.kernel import names
from contex_server.kernel.errors import invalid_field
from contex_server.kernel.model import Origin

IDENTITY = "contex-identity"
"""The header by which a client names itself."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CLIENT_CHARS = 200


def connection_of(headers: Mapping[str, str | bytes], peer: str) -> Origin:
    """Where a call comes from; who makes it is left open."""
    return _connection(str(headers.get("user-agent", "")), peer)


@lru_cache(maxsize=4_096)
def _connection(user_agent: str, peer: str) -> Origin:
    """The same for all calls of a connection."""
    client = _CONTROL.sub(" ", user_agent)[:_CLIENT_CHARS]
    return Origin("", _CONTROL.sub(" ", unquote(peer)), client)


def identity_of(headers: Mapping[str, str | bytes]) -> str:
    """The name that the caller gives itself, or "".

    Raises:
        ContexError: INVALID_FIELD if it is not a valid name.
    """
    identity = str(headers.get(IDENTITY, ""))
    if not names.IDENTITY.fullmatch(identity):
        raise invalid_field(
            IDENTITY, "must be at most 128 characters of A-Z a-z 0-9 _ . : / @ + - (metadata)"
        )
    return identity
