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
    embedder_path: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="An embedding model of your own instead of the built-in one: a directory with "
            "model.onnx and tokenizer.json.",
        ),
    ] = None,
    embedder_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="An OpenAI-compatible endpoint instead: what lies before /embeddings. Its key "
            "is taken from CONTEX_EMBEDDER__API_KEY.",
        ),
    ] = None,
    embedder_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model's name at --embedder-url.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            help="Serve metrics for Prometheus on this port, too; 0 picks a free one. "
            "[default: none]"
        ),
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
        "metrics_port": metrics_port,
        "log_level": log_level,
        "log_format": log_format,
    }
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    embedder = embedder_of(embedder_path, embedder_url, embedder_model)
    if embedder:
        given["embedder"] = embedder

    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from contex_server.kernel.config import Settings

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
        from contex_server.kernel.errors import StartupError

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


_EMBEDDER_FLAGS = {"path": "path", "base_url": "url", "model": "model"}


def embedder_of(path: Path | None, url: str | None, model: str | None) -> dict[str, Any]:
    """The flags as fields of EmbedderSettings; which kind it is follows from them."""
    if path is not None and url is not None:
        raise typer.BadParameter("give --embedder-path or --embedder-url, not both")
    fields = {"path": path, "base_url": url, "model": model}
    given: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    if path is not None or url is not None:
        given["kind"] = "local" if path is not None else "openai"
    return given


def explain(error: ValidationError, flags: dict[str, Any]) -> list[str]:
    """One line for each setting that is out of its range, named as it was given."""
    lines = []
    for problem in error.errors():
        names = [str(part) for part in problem["loc"]]
        message = problem["msg"].removeprefix("Value error, ")
        if not names:
            lines.append(message)
            continue
        variable = f"CONTEX_{'__'.join(names).upper()}"
        if len(names) == 1 and (names[0] in flags or variable not in os.environ):
            variable = "--" + names[0].replace("_", "-")
        elif names[0] == "embedder" and names[-1] in flags.get("embedder", ()):
            variable = f"--embedder-{_EMBEDDER_FLAGS.get(names[-1], names[-1])}"
        # An embedder's values are not shown: one of them, or of what is mistyped, is a key.
        shown = "" if names[0].endswith("embedder") else f" {problem['input']}"
        lines.append(f"{variable}{shown}: {message}")
    return lines
