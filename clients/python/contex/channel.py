"""How the client's channels are set up: retries, keepalive, message sizes, identity, health."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote

from . import __version__

MAX_MESSAGE_BYTES = 32 << 20
"""Largest message that is accepted. A server sends at most `limits.response_message_bytes`: 4 MiB,
up to 11 MiB where it takes larger payloads, and more only where its pages are larger, too."""

IDENTITY = "contex-identity"

HEALTH_CHECK = "/grpc.health.v1.Health/Check"

_PING_AFTER_MS = 30_000
_PING_TIMEOUT_MS = 10_000

# Calls that only read: repeating one is always safe, so gRPC does it. Calls that write are
# retried by backoff.py, streams are resumed by resume.py. UnregisterAgent is not retried at all:
# a second attempt would answer that there is no such agent.
_READS = {
    "EventService": ("GetEvent", "ListEvents"),
    "AgentService": (
        *("GetAgent", "ListAgents", "GetAgentContext", "ListDeliveries"),
        *("GetConsumerGroup", "ListParked"),
    ),
    "MatchService": ("Match", "Explain", "GetMatchingStatus"),
    "StateService": ("GetState", "DiffStates", "GetHistory", "GetRevision", "GetBlame"),
    "AuditService": ("ListRecords",),
    "ProjectService": ("ListProjects", "GetProject", "GetStats", "GetActivity", "GetRetention"),
    "AccessService": (
        *("WhoAmI", "CheckAccess", "ListKeys", "ListBindings", "ListRoles", "ListTenants"),
        "GetUsage",
    ),
    "ServerService": ("GetServerInfo",),
}

# Streams that can't be resumed: gRPC retries them until the first message has arrived.
_STREAMED_READS = {
    "MatchService": ("Backtest", "ExportFeedback"),
    "AuditService": ("ExportRecords",),
}

_RETRY_POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def service_config(timeout: float) -> dict[str, Any]:
    """The gRPC service config.

    Reads are tried five times within about a second and a half, or at the times that the server
    asks for (grpc-retry-pushback-ms), then fail with UNAVAILABLE. No
    call waits for the connection (`waitForReady`): it would end with a bare DEADLINE_EXCEEDED,
    whereas UNAVAILABLE says what is wrong, for example "connection refused".

    Args:
        timeout: Seconds for a read, all attempts together.
    """
    return {
        "methodConfig": [
            {
                "name": _names(_READS),
                "timeout": f"{timeout:.3f}s",
                "waitForReady": False,
                "retryPolicy": _RETRY_POLICY,
            },
            {
                "name": _names(_STREAMED_READS),
                "waitForReady": False,
                "retryPolicy": _RETRY_POLICY,
            },
        ]
    }


def _names(services: Mapping[str, Iterable[str]]) -> list[dict[str, str]]:
    return [
        {"service": f"contex.v1.{service}", "method": method}
        for service, methods in services.items()
        for method in methods
    ]


def identity_metadata(name: str) -> tuple[tuple[str, str], ...]:
    """The metadata that tell the server with every call who is calling.

    Characters that metadata can't carry are escaped, so that the service can explain which names
    it accepts; gRPC would fail with an error of its own.
    """
    if not isinstance(name, str):
        raise TypeError(f"publisher: expected a string, not {type(name).__name__} {name!r}")
    if not name:
        return ()
    try:
        escaped = quote(name, safe="/:@+")
    except UnicodeEncodeError:
        raise ValueError(f"publisher: {name!r} is not valid Unicode text") from None
    return ((IDENTITY, escaped),)


_SCHEME = re.compile(r"(?:dns|ipv4|ipv6|unix|unix-abstract|vsock|xds):(?!\d)")


def check_target(target: str) -> str:
    """Returns a target that gRPC can use.

    gRPC itself takes a port modulo 65,536 and guesses one that is missing.

    Raises:
        ValueError: It is neither HOST:PORT nor a URI such as unix:/run/contex.sock.
    """
    if not isinstance(target, str):
        raise TypeError(f"target: expected a string, not {target!r}")
    host, _, port = target.rpartition(":")
    is_host = host and "/" not in host
    if not _SCHEME.match(target) and not (is_host and port.isdecimal() and 0 < int(port) < 65_536):
        raise ValueError(f"target: {target!r} is not HOST:PORT, with a port from 1 to 65535")
    return target


_LOCAL_SCHEMES = ("unix:", "unix-abstract:", "vsock:")
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")  # in the order in which gRPC looks
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


def is_local(target: str) -> bool:
    """Whether a target is on this machine: a socket's path, or a loopback address."""
    if target.startswith(_LOCAL_SCHEMES):
        return True
    return all(map(_is_loopback, _hosts(target)))


def _hosts(target: str) -> list[str]:
    scheme, _, rest = target.partition(":")
    if scheme in ("dns", "ipv4", "ipv6") and not rest.isdecimal():
        target = rest.rpartition("/")[2]
    return [address.rpartition(":")[0].strip("[]") for address in target.split(",")]


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(unquote(host).partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def proxy_of(target: str) -> str:
    """The proxy of the environment on the way to a target, and its variable; empty for none."""
    if is_local(target):
        return ""
    for name in _PROXY_VARIABLES:
        if value := os.environ.get(name):
            exceptions = filter(None, map(os.environ.get, _EXCEPTIONS))
            excluded = [end.strip() for end in next(exceptions, "").split(",")]
            if any(host.endswith(end) for end in excluded if end for host in _hosts(target)):
                return ""
            return f"{value.rpartition('@')[2].removeprefix('http://')} ({name})"
    return ""


def channel_options(timeout: float = 10.0, *, target: str = "") -> list[tuple[str, Any]]:
    """Options for a channel to Contex; pass them to a channel that you make yourself, too.

    Args:
        timeout: Seconds for a read, all attempts together.
        target: The channel's target: one on this machine is reached without a proxy, whatever
            the environment says.
    """
    return [
        ("grpc.enable_http_proxy", int(not (target and is_local(target)))),
        ("grpc.primary_user_agent", f"contex-python/{__version__}"),
        ("grpc.service_config", json.dumps(service_config(timeout))),
        ("grpc.enable_retries", 1),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # Detects a dead connection under a quiet stream. Well above the server's limit of one
        # ping in 5 s, and never on a channel without calls.
        ("grpc.keepalive_time_ms", _PING_AFTER_MS),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
        # Where it is longer than that timeout, this one counts; by default it is a minute.
        ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.http2.max_pings_without_data", 0),
        # By default the channel's own backoff grows from 1 s to 120 s: however often the client
        # tries, it would not notice for that long that the server is back.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]


# The two messages of a health check are one field each, and coded here: a check is often all that
# a process does, and importing protobuf for it takes longer than the call.


def health_request(service: str) -> bytes:
    """`grpc.health.v1.HealthCheckRequest`."""
    try:
        name = service.encode()
    except UnicodeEncodeError:
        raise ValueError(f"service: {service!r} is not valid Unicode text") from None
    if not name:
        return b""
    length, coded = len(name), b""
    while length > 0x7F:
        coded += bytes([length & 0x7F | 0x80])
        length >>= 7
    return b"\x0a" + coded + bytes([length]) + name


def health_status(message: bytes) -> str:
    """The status of a `grpc.health.v1.HealthCheckResponse`."""
    number = message[1] if message[:1] == b"\x08" else 0
    return _HEALTH[number] if number < len(_HEALTH) else "UNKNOWN"


_HEALTH = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
