"""The options that several commands share, and the client they lead to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from contex_server.cli.positions import parse_position

if TYPE_CHECKING:
    from datetime import datetime

    from contex import AsyncClient

DEFAULT_TARGET = "127.0.0.1:50051"

Target = Annotated[
    str,
    typer.Option(
        "--target", envvar="CONTEX_TARGET", metavar="HOST:PORT", help="The server to talk to."
    ),
]
Project = Annotated[
    str, typer.Option("--project", "-p", envvar="CONTEX_PROJECT", help="The project.")
]
AgentId = Annotated[str, typer.Argument(metavar="AGENT", help="The agent's id.")]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout", min=0.001, metavar="SECONDS", help="How long a call may take, with retries."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", metavar="TYPE", help="Only events of this type. Repeatable."),
]
Keys = Annotated[
    list[str] | None,
    typer.Option(
        "--key", metavar="GLOB", help="Only data keys like this, with * and ?. Repeatable."
    ),
]
Publishers = Annotated[
    list[str] | None,
    typer.Option("--publisher", metavar="NAME", help="Only from this publisher. Repeatable."),
]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="POSITION",
        help="After this sequence, or from this RFC 3339 time on (2026-01-31T15:30:00Z).",
    ),
]
Until = Annotated[
    str | None,
    typer.Option(metavar="POSITION", help="Up to and including this sequence or RFC 3339 time."),
]
Backwards = Annotated[bool, typer.Option("--backwards", help="Newest first.")]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events a command reads: its --type, --key, --publisher, --since and --until."""

    event_types: tuple[str, ...] = ()
    data_keys: tuple[str, ...] = ()
    publishers: tuple[str, ...] = ()
    since: str | datetime | None = None
    until: str | datetime | None = None

    @classmethod
    def of(
        cls,
        types: list[str] | None,
        keys: list[str] | None,
        publishers: list[str] | None,
        since: str | None = None,
        until: str | None = None,
    ) -> Filter:
        """Reads the options.

        Raises:
            typer.BadParameter: A position is neither a sequence nor a time.
        """
        return cls(
            tuple(types or ()),
            tuple(keys or ()),
            tuple(publishers or ()),
            parse_position(since, "--since"),
            parse_position(until, "--until"),
        )


def connect(target: str, timeout: float = 10.0, publisher: str = "") -> AsyncClient:
    """A client for `target`, to be used as an async context manager."""
    from contex import AsyncClient  # grpc: commands that don't talk to a server start without

    return AsyncClient(target, publisher=publisher, timeout=timeout)
