"""`contex health`."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import typer

from contex_server.cli import options
from contex_server.cli.exits import ExitCode, complain
from contex_server.cli.output import print_json, print_line
from contex_server.cli.running import run

_WAIT_STEP_S = 0.1


def health(
    service: Annotated[
        str, typer.Option(help="One service, for example contex.v1.EventService. [default: all]")
    ] = "",
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Wait this long for it to serve.")
    ] = 0.0,
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 5.0,
    as_json: options.Json = False,
) -> None:
    """Ask whether a server serves: exit code 0, or 6 if not."""
    run(_health(service, wait, target, timeout, as_json))


async def _health(
    service: str, wait: float, target: str, timeout: float, as_json: bool
) -> ExitCode:
    from contex import DeadlineExceeded, NotFound, Unavailable

    deadline = time.monotonic() + wait
    async with options.connect(target, timeout) as client:
        while True:
            started = time.monotonic()
            refusal = None
            status = "UNREACHABLE"
            try:
                status = await client.health(service)
            except (Unavailable, DeadlineExceeded) as error:
                refusal = error
            except NotFound:
                complain(f"{target} has no service {service!r}")
                return ExitCode.NOT_FOUND
            latency_ms = (time.monotonic() - started) * 1000
            if status == "SERVING" or time.monotonic() >= deadline:
                break
            await asyncio.sleep(_WAIT_STEP_S)
    if as_json:
        print_json({"target": target, "status": status, "latency_ms": round(latency_ms, 3)})
    elif refusal is None:
        print_line(f"{status}  {target}  {latency_ms:.1f} ms")
    if refusal is not None:
        raise refusal
    return ExitCode.OK if status == "SERVING" else ExitCode.UNAVAILABLE
