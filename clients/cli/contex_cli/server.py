"""`contex serve`, `health` and `info`, and `demo` where it is not installed."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Any

import contex

from contex_cli import output as out
from contex_cli.command import Session, command
from contex_cli.exits import ExitCode, Unreached, complain
from contex_cli.parameters import option
from contex_cli.targets import unreached

_WAIT_STEP_S = 0.1


@command("serve")
def serve(
    host: str | None = option(None, "Where to listen. [default: 127.0.0.1]", metavar="ADDRESS"),
    port: int | None = option(None, "The port; 0 picks a free one. [default: 50051]"),
    data_dir: str | None = option(
        None, "Where the built-in store keeps its data. [default: data]", metavar="DIR"
    ),
    redis_url: str | None = option(
        None,
        "A Redis or Valkey of your own instead of the built-in store: redis://, rediss://, "
        "unix://, redis+sentinel://host:port,…/service, redis+cluster://host:port.",
        metavar="URL",
    ),
    workers: int | None = option(None, "Processes. [default: 1]"),
    insecure: bool | None = option(
        None, "Allow plain text at an address that other machines can reach."
    ),
    tls_cert: str | None = option(
        None, "Serve TLS: the certificate, with its chain, in PEM.", metavar="FILE"
    ),
    tls_key: str | None = option(None, "Its private key, in PEM.", metavar="FILE"),
    tls_self_signed: bool | None = option(
        None, "Serve TLS with a certificate that is made in the data directory."
    ),
    tls_client_ca: str | None = option(
        None,
        "Require certificates of clients, issued by one of these authorities, in PEM.",
        metavar="FILE",
    ),
    tls_client_port: int | None = option(
        None, "Require them at this port only, and none at --port; 0 picks a free one."
    ),
    access: bool | None = option(
        None,
        "Ask callers who they are, and check what they may do.",
        "--access/--no-access",
    ),
    admin_key_file: str | None = option(
        None,
        "The key of the first administrator, made if it is not there. [default: admin.key in the "
        "data directory of the built-in store]",
        metavar="FILE",
    ),
    embedder_path: str | None = option(
        None,
        "An embedding model of your own instead of the built-in one: a directory with model.onnx "
        "and tokenizer.json, such as contex embedder fetch makes.",
        metavar="DIR",
    ),
    embedder_url: str | None = option(
        None,
        "An OpenAI-compatible endpoint instead: what comes before /embeddings. Its key is taken "
        "from CONTEX_EMBEDDER__API_KEY.",
        metavar="URL",
    ),
    embedder_model: str | None = option(
        None, "The model's name at --embedder-url.", metavar="NAME"
    ),
    metrics_port: int | None = option(
        None, "Also serve metrics for Prometheus on this port; 0 picks a free one. [default: none]"
    ),
    log_level: str | None = option(
        None, "debug, info, warning or error. [default: info]", metavar="LEVEL"
    ),
    log_format: str | None = option(
        None, "auto, json or console. [default: auto]", metavar="FORMAT"
    ),
) -> int:
    """Every setting can also be given in the environment as CONTEX_ and its name, for example
    CONTEX_REDIS_URL; a flag wins.
    """
    flags: dict[str, Any] = dict(locals())
    try:
        from contex_server import serve as server
    except ModuleNotFoundError as error:
        if error.name != "contex_server":
            raise
        complain(
            "the server is not installed; install it with: pip install contex-server "
            "(or uv tool install --force contex-server)"
        )
        return ExitCode.UNEXPECTED
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return server.serve(given)
    except server.InvalidSettings as error:
        for problem in error.problems:
            complain(problem)
        return ExitCode.USAGE
    except server.StartupError as error:
        complain(f"can't start: {error}")
        return ExitCode.UNEXPECTED


@command("health", without=["project"], timeout=5.0)
async def health(
    session: Session,
    service: str = option("", "One service, for example contex.v1.EventService. [default: all]"),
    wait: float = option(0.0, "Wait this long for it to serve.", metavar="SECONDS", minimum=0),
) -> ExitCode:
    import asyncio

    session.waits = True
    deadline = time.monotonic() + wait
    while True:
        started = time.monotonic()
        refusal = None
        status = "UNREACHABLE"
        try:
            status = await session.client.health(service)
        except (contex.Unavailable, contex.DeadlineExceeded) as error:
            refusal = error
        except contex.NotFound:
            complain(f"{session.target} has no service {service!r}")
            return ExitCode.NOT_FOUND
        latency_ms = (time.monotonic() - started) * 1000
        if status == "SERVING" or time.monotonic() >= deadline:
            break
        await asyncio.sleep(_WAIT_STEP_S)
        if refusal is not None:
            await session.reconnect()
    if session.json:
        out.print_json(
            {"target": session.target, "status": status, "latency_ms": round(latency_ms, 3)}
        )
    elif refusal is None:
        out.print_line(f"{status}  {session.target}  {latency_ms:.1f} ms")
    if refusal is not None:
        why = unreached(refusal, session.target)
        raise Unreached(why) if why else refusal
    return ExitCode.OK if status == "SERVING" else ExitCode.UNAVAILABLE


@command("info", without=["project"])
async def info(session: Session) -> None:
    session.answer(await session.client.server_info(), _show_info)


def _show_info(info: contex.ServerInfo) -> None:
    out.show_rows(
        {
            "version": f"{info.version}, revision {info.api_revision} of the API",
            "features": ", ".join(feature.value for feature in info.features),
            "request ids": f"remembered for {info.request_window_seconds:,} s",
            "heartbeats": f"every {info.heartbeat_interval_ms:,} ms, or "
            f"{info.min_heartbeat_interval_ms:,} to {info.max_heartbeat_interval_ms:,}",
            "pings": f"at most one in {info.min_ping_interval_ms:,} ms",
        }
    )
    limits = {
        field.name.rpartition("_"): getattr(info.limits, field.name)
        for field in fields(info.limits)
    }
    out.show_rows(
        {
            f"{what} {unit}".replace("_", " ") if unit != "bytes" else what.replace("_", " "): (
                out.size_text(value) if unit == "bytes" else f"{value:,}"
            )
            for (what, _, unit), value in limits.items()
        }
    )


@command("demo")
def no_demo() -> int:
    complain(
        "the demo is not installed; install it with: pip install 'contex-server[demo]', or run "
        "`make demo` in the repository of Contex, where it is examples/demo"
    )
    return ExitCode.UNEXPECTED
