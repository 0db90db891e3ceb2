"""`contex serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contex_server.cli.exits import ExitCode, complain, complain_about

if TYPE_CHECKING:
    from pydantic import ValidationError


def serve(
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Where to listen. [default: 127.0.0.1]")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="The port; 0 picks a free one. [default: 50051]")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the built-in store keeps its data. [default: data]")
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A Redis or Valkey of your own instead of the built-in store: redis://, "
            "rediss://, unix://, redis+sentinel://host:port,…/service, redis+cluster://host:port.",
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes. [default: 1]")] = None,
    insecure: Annotated[
        bool | None,
        typer.Option("--insecure", help="Allow an address that other machines can reach."),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="debug, info, warning or error. [default: info]"),
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="auto, json or console. [default: auto]")
    ] = None,
) -> None:
    """Start a server and run it until Ctrl-C.

    Every setting can also be given in the environment as CONTEX_ and its name, for example
    CONTEX_REDIS_URL; a flag wins.
    """
    flags = {
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "redis_url": redis_url,
        "workers": workers,
        "insecure": insecure,
        "log_level": log_level,
        "log_format": log_format,
    }
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}

    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from contex_server.config import Settings

    try:
        settings = Settings(**given)
    except ValidationError as error:
        for problem in explain(error, given):
            complain(problem)
        raise typer.Exit(ExitCode.USAGE) from None
    except SettingsError as error:
        complain(str(error))
        raise typer.Exit(ExitCode.USAGE) from None

    try:
        from contex_server import app
        from contex_server.errors import StartupError

        try:
            code = app.serve(settings)
        except (StartupError, OSError) as error:
            complain(f"can't start: {error}")
            code = ExitCode.UNEXPECTED
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except Exception as error:
        code = complain_about(error)
    raise typer.Exit(code)


def explain(error: ValidationError, flags: dict[str, Any]) -> list[str]:
    """One line for each setting that is out of its range, named as it was given."""
    lines = []
    for problem in error.errors():
        name = "__".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if not name:
            lines.append(message)
            continue
        variable = f"CONTEX_{name.upper()}"
        if name in flags or variable not in os.environ:
            variable = "--" + name.replace("_", "-")
        lines.append(f"{variable} {problem['input']}: {message}")
    return lines
