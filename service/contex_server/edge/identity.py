"""Who makes a call: what its connection and metadata say."""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Any
from urllib.parse import unquote

import grpc

from contex_server.kernel.errors import invalid_field
from contex_server.kernel.model import UNKNOWN, Origin

IDENTITY = "contex-identity"
"""The metadata by which a client names itself."""

_IDENTITY = re.compile(r"[A-Za-z0-9_.:/@+-]{0,128}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CLIENT_CHARS = 200

_caller: ContextVar[Origin] = ContextVar("caller", default=UNKNOWN)


def caller() -> Origin:
    """Who makes the call that is being handled."""
    return _caller.get()


def recognise(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Notes who makes a call, for `caller`.

    Raises:
        ContexError: INVALID_FIELD, where the name is none.
    """
    identity = client = ""
    for name, value in context.invocation_metadata() or ():
        if name == "user-agent":
            client = _CONTROL.sub(" ", str(value))[:_CLIENT_CHARS]
        elif name == IDENTITY:
            identity = str(value)
    if not _IDENTITY.fullmatch(identity):
        raise invalid_field(
            IDENTITY, "must be at most 128 characters of A-Z a-z 0-9 _ . : / @ + - (metadata)"
        )
    _caller.set(Origin(identity, _CONTROL.sub(" ", unquote(context.peer())), client))
