"""How the client's channels are set up: retries, keepalive, message sizes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import quote

MAX_MESSAGE_BYTES = 32 << 20
"""Largest message received. Streams send about 1 MiB, unless one event is larger."""

IDENTITY = "contex-identity"

HEALTH_CHECK = "/grpc.health.v1.Health/Check"

# Calls that only read: repeating one is always safe, so gRPC does it by itself. The calls that
# write are left to retry.py, streams to resume.py. UnregisterAgent is in neither: repeated, it
# would answer that there is no such agent.
_READS = (
    ("contex.v1.EventService", "GetEvent"),
    ("contex.v1.EventService", "ListEvents"),
    ("contex.v1.AgentService", "GetAgent"),
    ("contex.v1.AgentService", "ListAgents"),
    ("contex.v1.AgentService", "GetAgentContext"),
    ("contex.v1.AgentService", "ListDeliveries"),
    ("contex.v1.MatchService", "Match"),
    ("contex.v1.MatchService", "Explain"),
    ("contex.v1.MatchService", "GetMatchingStatus"),
    ("contex.v1.StateService", "GetState"),
    ("contex.v1.StateService", "DiffStates"),
    ("contex.v1.StateService", "GetHistory"),
    ("contex.v1.StateService", "GetRevision"),
    ("contex.v1.StateService", "GetBlame"),
    ("contex.v1.AuditService", "ListRecords"),
    ("contex.v1.ProjectService", "GetStats"),
    ("contex.v1.ProjectService", "GetActivity"),
    ("contex.v1.ProjectService", "GetRetention"),
)

# Streams that can't be resumed: gRPC repeats them as long as nothing has arrived.
_STREAMED_READS = (
    ("contex.v1.MatchService", "Backtest"),
    ("contex.v1.MatchService", "ExportFeedback"),
    ("contex.v1.AuditService", "ExportRecords"),
)

_RETRY_POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def service_config(timeout: float) -> dict[str, Any]:
    """The gRPC service config.

    Reads are tried five times within about a second and a half, then fail as UNAVAILABLE. No
    call waits for the connection (`waitForReady`): it would end as a bare DEADLINE_EXCEEDED,
    where UNAVAILABLE says what is wrong, for example "connection refused".

    Args:
        timeout: Seconds for a read with all its attempts.
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


def _names(methods: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"service": service, "method": method} for service, method in methods]


def identity_metadata(name: str) -> tuple[tuple[str, str], ...]:
    """The metadata by which a client says who it is, with every call.

    What metadata can't carry is escaped: gRPC would fail in its own way, where the service says
    which names it takes.
    """
    return ((IDENTITY, quote(name, safe="/:@+")),) if name else ()


def _version() -> str:
    try:
        return version("contex-client")
    except PackageNotFoundError:  # run from a folder that is not installed
        return "unknown"


def channel_options(timeout: float = 10.0) -> list[tuple[str, Any]]:
    """Options for a channel to Contex; use them too where you make the channel yourself."""
    return [
        ("grpc.primary_user_agent", f"contex-python/{_version()}"),
        ("grpc.service_config", json.dumps(service_config(timeout))),
        ("grpc.enable_retries", 1),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # Finds a dead connection below a quiet stream. Well above the server's limit of one
        # ping in 5 s, and never on a channel without calls.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.http2.max_pings_without_data", 0),
        # The channel's own backoff starts at 1 s and grows to 120 s: a server that is back
        # would not be seen for that long, however often the client tries.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]
