"""Which server is meant by --target, and what is said if nothing listens there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from contex import ContexError

_PLAIN = re.compile(r"(?:http|grpc|contex)://", re.IGNORECASE)
_SECURE = re.compile(r"(?:https|grpcs|contexs)://", re.IGNORECASE)
SECURE = "contexs://"
_REFUSED = re.compile(r"onnection refused|No such file or directory", re.IGNORECASE)
_UNREACHED = re.compile(
    r"failed to connect to all addresses; last error: \w+: (?:ipv\d:)?(?P<address>\S+): (?P<why>.*)"
)
"""How gRPC says that it reached no server."""
_UNRESOLVED = re.compile("errors resolving|DNS resolution failed")


def parse_target(text: str, secure: bool = False) -> str:
    """HOST:PORT of what may have been typed as a URL, with contexs:// before it for TLS.

    Args:
        text: What was typed.
        secure: Whether TLS was asked for otherwise.

    Raises:
        ValueError: The URL can't be used; the message says what to type.
    """
    plain, encrypted = _PLAIN.match(text), _SECURE.match(text)
    if plain and secure:
        raise ValueError(f"target: {text!r} asks for plain text; TLS is contexs://")
    scheme = SECURE if secure or encrypted else ""
    if not (plain or encrypted):
        return scheme + text
    address = (_SECURE if encrypted else _PLAIN).sub("", text).rstrip("/")
    if "/" in address:
        raise ValueError(f"target: {text!r} has a path; type {scheme}{address.partition('/')[0]}")
    if not re.search(r":\d+$", address):
        raise ValueError(
            f"target: {text!r} has no port; type {scheme}{address}:50051, or another port"
        )
    return scheme + address


def unreached(error: ContexError, target: str = "") -> str:
    """What to say of an error that came from no server; empty if a server answered.

    Without the target, the address that gRPC tried is named.
    """
    if error.reason not in ("", "SERVER_UNREACHABLE") or error.code.name != "UNAVAILABLE":
        return ""
    from contex.tls import handshake_problem

    text = " ".join(error.message.split())
    # The client may have put it first.
    if (problem := handshake_problem(text)) and text.startswith(f"{problem}: "):
        text = text.removeprefix(f"{problem}: ")
    found = _UNREACHED.match(text)
    if found is None and not _UNRESOLVED.match(text):
        return ""
    known = bool(target)
    target = target or (unquote(found["address"]) if found else "the server")
    why = found["why"] if found else text
    if _REFUSED.search(why):
        return f"nothing listens at {target}; start one with `contex serve`, or set --target"
    if problem := handshake_problem(text, target.startswith(SECURE) if known else None):
        return f"can't reach {target}: {problem}"
    return f"can't reach {target}: {why}; is it the right --target?"
