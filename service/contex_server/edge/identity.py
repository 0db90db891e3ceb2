"""Who makes a call, as far as its headers and its connection say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

from contex_server.kernel import names
from contex_server.kernel.errors import invalid_field
from contex_server.kernel.model import Origin

IDENTITY = "contex-identity"
"""The header by which a client names itself."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CLIENT_CHARS = 200


def origin_of(headers: Mapping[str, str | bytes], peer: str) -> Origin:
    """The caller as its headers and its address describe it.

    Raises:
        ContexError: INVALID_FIELD if the name it gives itself is not a valid one.
    """
    identity = str(headers.get(IDENTITY, ""))
    if not names.IDENTITY.fullmatch(identity):
        raise invalid_field(
            IDENTITY, "must be at most 128 characters of A-Z a-z 0-9 _ . : / @ + - (metadata)"
        )
    client = _CONTROL.sub(" ", str(headers.get("user-agent", "")))[:_CLIENT_CHARS]
    return Origin(identity, _CONTROL.sub(" ", unquote(peer)), client)
