"""The composition root: a process that serves, or that supervises workers which do."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from contex_server import workers
from contex_server.kernel.config import Settings
from contex_server.kernel.errors import ContexError, StartupError
from contex_server.kernel.right_of_way import SWITCH_S
from contex_server.kernel.telemetry import configure_logging, loop_failed

if TYPE_CHECKING:
    from contex_server.log.embedded import EmbeddedValkey
    from contex_server.matching.embedders.port import Embedder

log = structlog.get_logger(__name__)


def serve(settings: Settings) -> int:
    """Runs a server until SIGTERM or SIGINT; returns the process's exit code.

    Raises:
        StartupError: It can't start, for a reason that an operator can fix.
    """
    configure_logging(settings.log_level, settings.log_format, settings.secrets)
    try:
        asyncio.run(_serve(settings))
    except asyncio.CancelledError:
        log.info("stopped", during="start")
    except ContexError as error:
        raise StartupError(error.message) from error
    except (StartupError, OSError):
        raise
    except Exception:
        # A trace that the interpreter prints would quote values.
        log.critical("uncaught", exc_info=True)
        return 1
    return 0


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    serving = False
    task = asyncio.current_task()
    assert task is not None

    def end() -> None:
        if not serving and not stop.is_set():
            task.cancel()  # A start may take long: a large log, a store that is away.
        stop.set()

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(loop_failed)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    async with AsyncExitStack() as stack:
        # First what fails at once: a port in use, a certificate that can't be served.
        settings = stack.enter_context(_reserved_ports(settings))
        if settings.tls:
            files = import_module("contex_server.edge.certificate_files")
            files.check_settings(settings)
        # Side by side, these take two thirds of the time. Threads that import are started only
        # now, with signals handled by the loop: a KeyboardInterrupt in the midst of an import
        # may be lost together with the import lock.
        gc.disable()  # nothing is garbage yet
        parts = (
            asyncio.create_task(_modules_and_model(settings, stack)),
            asyncio.create_task(_store(settings, stack)),
        )
        try:
            embedder, store_url = await asyncio.gather(*parts)
        finally:
            gc.enable()
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
        from contex_server.server import Server, first_key, monitored

        if (first := await first_key(settings, store_url)) is not None:
            # A log that others read is no place for a key.
            shown, found = sys.stdout.isatty(), first.path == Path("data", first.path.name)
            print(first.story(_target(settings), found=found, shown=shown), flush=True)
        metrics = await stack.enter_async_context(monitored(settings, store_url))
        if settings.workers > 1:
            serving = True
            worker = partial(_serve_worker, settings, store_url)
            await workers.supervise(settings.workers, worker, stop, metrics.reported)
            return
        server = await Server.start(settings, store_url, embedder=embedder)
        metrics.follow(server.counts)
        stack.push_async_callback(server.stop)
        _calm_garbage_collector()
        sys.setswitchinterval(SWITCH_S)
        serving = True
        await stop.wait()


def _target(settings: Settings) -> str:
    """Where this machine reaches the server."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host else host
    return f"{'contexs://' if settings.tls else ''}{host}:{settings.port}"


async def _serve_worker(settings: Settings, store_url: str, lifeline: workers.Lifeline) -> None:
    """Serves until the lifeline ends; what a worker process runs."""
    from contex_server.server import Server

    configure_logging(settings.log_level, settings.log_format, settings.secrets)
    asyncio.get_running_loop().set_exception_handler(loop_failed)
    server = await Server.start(settings, store_url)
    _calm_garbage_collector()
    sys.setswitchinterval(SWITCH_S)
    await lifeline.report_until_ended(server.counts.totals)
    await server.stop()


async def _store(settings: Settings, stack: AsyncExitStack) -> str:
    """The URL of the store, once it answers; the bundled one is started."""
    if settings.redis_url is not None:
        start = await asyncio.to_thread(import_module, "contex_server.log.redis.start")
        await start.reach(settings.redis_url)
        return settings.redis_url
    embedded = await asyncio.to_thread(import_module, "contex_server.log.embedded")
    valkey: EmbeddedValkey = embedded.EmbeddedValkey(settings.data_dir)
    stack.push_async_callback(valkey.stop)
    await valkey.start()
    return valkey.url


async def _modules_and_model(settings: Settings, stack: AsyncExitStack) -> Embedder | None:
    """Imports the server, and loads the configured model if this process is to use it."""
    modules = partial(asyncio.to_thread, import_module, "contex_server.server")
    if settings.workers > 1:
        await modules()
        return None
    # First the libraries of the model, so that it is loaded while the rest is imported.
    embedders = await asyncio.to_thread(import_module, "contex_server.matching.embedders")
    embedder: Embedder = await embedders.load(settings.embedder, stack, modules)
    return embedder


@contextmanager
def _reserved_ports(settings: Settings) -> Iterator[Settings]:
    """Holds the ports; the settings then have those that were chosen."""
    with ExitStack() as stack:
        ports = {}
        for name in ("port", "tls_client_port"):
            if (port := getattr(settings, name)) is not None:
                ports[name] = stack.enter_context(_reserved_port(settings.host, port))
        yield settings.model_copy(update=ports)


@contextmanager
def _reserved_port(host: str, port: int) -> Iterator[int]:
    """Holds the port for this server's processes: refused if taken, chosen if it is 0."""
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # Alone first: processes of one server share the port, strangers don't.
        with socket.socket(family, socket.SOCK_STREAM) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind((host, port))
            port = alone.getsockname()[1]
        shared = socket.socket(family, socket.SOCK_STREAM)
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind((host, port))
    except OSError as error:
        raise StartupError(f"can't listen on {host}:{port}: {error}") from error
    with shared:
        yield port


def _calm_garbage_collector() -> None:
    """Fits Python's cycle collector to a process that holds much and makes many tuples.

    Reading a page of the log makes thousands of containers, none of them in a cycle, and
    by default every 700 of them start a collection: that was 45 % of a replay's processor
    time. What was loaded at the start stays for ever and need not be looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
