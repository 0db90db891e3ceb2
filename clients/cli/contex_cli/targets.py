"""Which server is meant by --target, and what is said if nothing listens there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from contex import ContexError

_PLAIN = re.compile(r"(?:http|grpc)://", re.IGNORECASE)
_SECURE = re.compile(r"(?:https|grpcs)://", re.IGNORECASE)
_REFUSED = re.compile(r"onnection refused|No such file or directory", re.IGNORECASE)
_UNREACHED = re.compile(
    r"failed to connect to all addresses; last error: \w+: (?:ipv\d:)?(?P<address>\S+): (?P<why>.*)"
)
"""How gRPC says that it reached no server."""
_UNRESOLVED = re.compile("errors resolving|DNS resolution failed")


def parse_target(text: str) -> str:
    """HOST:PORT of what may have been typed as a URL.

    Raises:
        ValueError: The URL can't be used; the message says what to type.
    """
    if _SECURE.match(text):
        rest = _SECURE.sub("", text).rstrip("/")
        raise ValueError(f"target: {text!r} asks for TLS, which is not there yet; type {rest}")
    if not _PLAIN.match(text):
        return text
    address = _PLAIN.sub("", text).rstrip("/")
    if "/" in address:
        raise ValueError(f"target: {text!r} has a path; type {address.partition('/')[0]}")
    if not re.search(r":\d+$", address):
        raise ValueError(f"target: {text!r} has no port; type {address}:50051, or another port")
    return address


def unreached(error: ContexError, target: str = "") -> str:
    """What to say of an error that came from no server; empty if a server answered.

    Without the target, the address that gRPC tried is named.
    """
    if error.reason not in ("", "SERVER_UNREACHABLE") or error.code.name != "UNAVAILABLE":
        return ""
    text = " ".join(error.message.split())
    found = _UNREACHED.match(text)
    if found is None and not _UNRESOLVED.match(text):
        return ""
    target = target or (unquote(found["address"]) if found else "the server")
    why = found["why"] if found else text
    if _REFUSED.search(why):
        return f"nothing listens at {target}; start one with `contex serve`, or set --target"
    return f"can't reach {target}: {why}; is it the right --target?"
