"""`contex embedder`: models besides the built-in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contex_cli import models
from contex_cli import output as out
from contex_cli.command import command
from contex_cli.exits import ExitCode, complain
from contex_cli.parameters import UsageError, argument, option
from contex_cli.progress import Progress

_INTO = "The directory that has, or gets, a directory for each model."
_MIB = 1 << 20


def parse_base(text: str) -> str:
    if not text.startswith(("https://", "http://")):
        raise ValueError(f"{text!r} is not an http:// or https:// URL")
    return text


@command("embedder list")
def list_models(
    into: str = option("models", _INTO, metavar="DIR"),
    json: bool = option(False, "One JSON object a line, for programs."),
) -> int:
    """All run in the server, on the CPU, with int8 weights. The built-in one is not among them."""
    listed = [(model, Path(into, model.name)) for model in models.MODELS.values()]
    if json:
        for model, path in listed:
            out.print_json(_record(model, path) | {"fetched": path.exists()})
        out.flush()
        return ExitCode.OK
    columns: out.Columns[tuple[models.Model, Path]] = {
        "name": lambda row: row[0].name,
        "languages": lambda row: row[0].languages,
        "dimension": lambda row: row[0].dimension,
        "download": lambda row: f"{row[0].bytes / _MIB:.0f} MiB",
        "licence": lambda row: row[0].licence,
        "version": lambda row: row[0].version,
        "fetched": lambda row: str(row[1]) if row[1].exists() else "",
    }
    out.show_table(listed, columns)
    return ExitCode.OK


@command("embedder fetch", timeout=30.0)
def fetch_model(
    model: Any = argument(..., "MODEL", "Its name.", parse=models.MODELS),
    into: str = option("models", _INTO, metavar="DIR"),
    base: str | None = option(
        None,
        "The base URL of Maven Central, or of a mirror of it.",
        "--from",
        metavar="URL",
        env="CONTEX_MODELS_URL",
        parse=parse_base,
    ),
    timeout: float = option(
        30.0, "How long the connection may be silent.", metavar="SECONDS", minimum=0.001
    ),
    json: bool = option(False, "One JSON object, for programs."),
) -> int:
    """From Maven Central, once, in a pinned version whose SHA-256 is checked. Interrupted, the same
    command goes on; the directory is there when it is complete. HTTPS_PROXY and NO_PROXY count.
    """
    path = Path(into, model.name)
    there = models.is_fetched(model, path)
    if not there:
        if base is None:
            raise UsageError("needed: the base URL of Maven Central, or of a mirror", "--from")
        try:
            with Progress("fetched", bar=True, thing="byte") as progress:
                models.fetch(
                    model, path, base, timeout, lambda done: progress.reach(done, model.bytes)
                )
        except models.NotFetched as error:
            complain(str(error))
            return ExitCode.UNAVAILABLE
        except models.WrongDigest as error:
            complain(str(error))
            return ExitCode.DAMAGED
    record = _record(model, path)
    if json:
        out.print_json(record)
        out.flush()
        return ExitCode.OK
    print(f"{model.name} is {'already ' if there else ''}in {path.resolve()}; use it with")
    print(f"  contex serve --embedder-path {path}")
    print("or, in the environment,")
    for name, value in record["settings"].items():
        print(f"  {name}={value}")
    return ExitCode.OK


def _record(model: models.Model, path: Path) -> dict[str, Any]:
    return {
        "name": model.name,
        "languages": model.languages,
        "dimension": model.dimension,
        "bytes": model.bytes,
        "licence": model.licence,
        "version": model.version,
        "sha256": model.sha256,
        "path": str(path.resolve()),
        "settings": {
            "CONTEX_EMBEDDER__KIND": "local",
            "CONTEX_EMBEDDER__PATH": str(path.resolve()),
        },
    }
