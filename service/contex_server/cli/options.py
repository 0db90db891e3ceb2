"""The options that several commands share, and the client they lead to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from contex_server.cli.positions import Place, parse_position

if TYPE_CHECKING:
    from contex import AsyncClient, ContextFormat, MinDelta

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
        help="After this sequence, or from this time on: 2026-01-31T15:30:00Z, 15:30, '2h ago'.",
    ),
]
Until = Annotated[
    str | None,
    typer.Option(metavar="POSITION", help="Up to and including this sequence or time."),
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Lowest score that matches, above 0, at most 1. [default: the server's]"),
]
AsOf = Annotated[
    str | None,
    typer.Option(
        "--at",
        "--as-of",
        metavar="POSITION",
        help="As of this sequence or time: 15:30, 'yesterday 15:30', '2h ago'. [default: now]",
    ),
]
Prefix = Annotated[str, typer.Option(metavar="TEXT", help="Only data whose key starts with this.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=0, help="At most this many; 0: all.")]
OnlyChanges = Annotated[
    bool | None,
    typer.Option(
        "--min-delta/--no-min-delta",
        help="Leave out updates that don't change the payload, or none.",
        show_default=False,
    ),
]
OnlyChangesAt = Annotated[
    list[str] | None,
    typer.Option(
        "--min-delta-pointer",
        metavar="POINTER",
        help="Leave out updates that don't change the value at this JSON pointer. Repeatable.",
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Tokens that the data may take when written out; the best are kept."
    ),
]


class Format(StrEnum):
    """How data are written out for an agent's prompt: the names of `contex.ContextFormat`."""

    JSON = "json"
    YAML = "yaml"
    MARKDOWN = "markdown"
    TOON = "toon"


FormatOption = Annotated[
    Format | None,
    typer.Option("--format", help="Print the data written out for a prompt instead."),
]
Backwards = Annotated[bool, typer.Option("--backwards", help="Newest first.")]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events a command reads: its --type, --key, --publisher, --since and --until."""

    event_types: tuple[str, ...] = ()
    data_keys: tuple[str, ...] = ()
    publishers: tuple[str, ...] = ()
    since: Place | None = None
    until: Place | None = None

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
            typer.BadParameter: A position can't be understood.
        """
        return cls(
            tuple(types or ()),
            tuple(keys or ()),
            tuple(publishers or ()),
            parse_position(since, "--since"),
            parse_position(until, "--until"),
        )


def context_format(chosen: Format | None) -> ContextFormat | None:
    """The client's value of `--format`."""
    from contex import ContextFormat

    return None if chosen is None else ContextFormat(chosen)


def min_delta(only_changes: bool | None, pointers: list[str] | None) -> MinDelta | None:
    """What `--min-delta` and `--min-delta-pointer` say; None where they are not given.

    Raises:
        typer.BadParameter: They contradict each other.
    """
    from contex import MinDelta

    if pointers and only_changes is False:
        raise typer.BadParameter("contradicts --no-min-delta", param_hint="--min-delta-pointer")
    if pointers:
        return MinDelta(True, tuple(pointers))
    return None if only_changes is None else MinDelta(only_changes)


def connect(target: str, timeout: float = 10.0, publisher: str = "") -> AsyncClient:
    """A client for `target`, to be used as an async context manager."""
    from contex import AsyncClient  # grpc: commands that don't talk to a server start without

    return AsyncClient(target, publisher=publisher, timeout=timeout)
