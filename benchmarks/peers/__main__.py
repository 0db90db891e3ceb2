"""`python -m benchmarks.peers`: Contex beside UmaDB and NATS JetStream; see README.md."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

from contex.v1 import event_service_pb2
from rich.console import Console

from benchmarks import report
from benchmarks.facts import facts, summary
from benchmarks.figures import Figure, Target
from benchmarks.messages import request
from benchmarks.peers import servers
from benchmarks.peers.load import KEYS, PAYLOAD_BYTES, Load, as_argument, event, parsed
from benchmarks.peers.servers import Client, NotInstalled, Peer, Running
from benchmarks.processes import ContexServer, contex_server, ended
from benchmarks.store import pack_append, raw_store

CONTEX = "Contex"
RAW = "raw store calls"
LOADS = (
    Load("32 writers, an event a call", writers=32, batch=1, seconds=4),
    Load("1 writer, batches of 64", writers=1, batch=64, seconds=4),
    Load("8 writers, batches of 64", writers=8, batch=64, seconds=4),
)
_QUICK_S = 0.3
TARGETS = dict(zip((load.name for load in LOADS), (0.5, 0.85, 0.22), strict=True))
"""Shares of UmaDB's rates."""
_CLIENT_S = 120.0
_RAW_PROJECT = "raw"


class Rate(NamedTuple):
    """What a load reached in one run: events a second, and processor time of an event."""

    events_per_s: float
    server_us: float = 0.0
    client_us: float = 0.0


Rates = dict[str, dict[str, list[Rate]]]
"""By load, and by who was measured, one a run."""


async def measure(peer: Client, running: Running, load: Load) -> Rate:
    """Runs a load by a process of its own.

    Raises:
        RuntimeError: The client failed, or was not done in time.
    """
    process = await peer.start(running.target, as_argument(load))
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_CLIENT_S):
            ready = await process.stdout.readline()
            before = running.cpu_s()
            process.stdin.write(b"go\n")
            line = await process.stdout.readline() if ready else b""
            used = running.cpu_s() - before
            process.stdin.close()
            code = await process.wait()
    except TimeoutError:
        raise RuntimeError(f"{peer.name}, {load.name}: not done in {_CLIENT_S:g} s") from None
    finally:
        await ended(process)
    if code:
        raise RuntimeError(f"{peer.name}, {load.name}: the client failed")
    timed = parsed(line.decode())
    each_us = 1e6 / timed.events
    server_us, client_us = used * each_us, timed.client_seconds * each_us
    return Rate(timed.events / timed.seconds, server_us, client_us)


def measure_raw(server: ContexServer, load: Load, events: int) -> Rate:
    """So many of the same events by the store's own function, with as many calls in flight as there
    are writers."""
    calls = max(events // load.batch, load.writers)
    packed = []
    for call in range(calls):
        numbers = range(call * load.batch, (call + 1) * load.batch)
        new = [event_service_pb2.NewEvent(data_key=k, payload=p) for k, p in map(event, numbers)]
        packed.append(pack_append(request(_RAW_PROJECT, new)))
    with raw_store(server.store_socket) as store:
        seconds = store.pipelined(packed, load.writers)
        store.forget(_RAW_PROJECT)
    return Rate(calls * load.batch / seconds)


def figures_of(rates: Rates) -> dict[str, list[Figure]]:
    """Contex beside each of the others, for each load."""
    results: dict[str, list[Figure]] = {}
    for load, by_name in rates.items():
        ours = by_name[CONTEX]
        results[load] = [
            Figure(
                f"{CONTEX} against {name}",
                "events/s",
                [rate.events_per_s for rate in ours],
                [rate.events_per_s for rate in theirs],
                name,
                Target("ratio", TARGETS[load]) if name.startswith("UmaDB") else None,
                {"us_per_event": {who: _us(by_name[who]) for who in (CONTEX, name) if who != RAW}},
            )
            for name, theirs in by_name.items()
            if name != CONTEX
        ]
    return results


def processor_lines(rates: Rates) -> list[str]:
    """Processor time of an event, of server and client, by load."""
    lines = []
    for load, by_name in rates.items():
        parts = [
            f"{name} {times['server']:.0f} + {times['client']:.0f}"
            for name, measured in by_name.items()
            if name != RAW and (times := _us(measured))
        ]
        lines.append(f"{load}, µs of processor time an event, server + client: {', '.join(parts)}")
    return lines


def _us(rates: Sequence[Rate]) -> dict[str, float]:
    return {
        "server": median(rate.server_us for rate in rates),
        "client": median(rate.client_us for rate in rates),
    }


async def _installed(folder: Path, console: Console) -> list[Peer]:
    """What can be installed; what can't is said."""
    peers = []
    for name, install in (("UmaDB", servers.install_umadb), ("JetStream", servers.install_nats)):
        console.print(f"installing {name}", highlight=False)
        try:
            peers.append(await install(folder))
        except NotInstalled as error:
            console.print(f"{name} is left out: {error}", highlight=False, markup=False)
    return peers


@asynccontextmanager
async def _contex(data_dir: Path) -> AsyncIterator[tuple[ContexServer, Running]]:
    async with contex_server(data_dir) as server:

        def cpu_s() -> float:
            used = server.cpu()
            return used.server + used.store

        yield server, Running(server.target, cpu_s)


async def _measure_all(arguments: argparse.Namespace, console: Console) -> tuple[Rates, list[str]]:
    loads = [replace(load, seconds=_QUICK_S) for load in LOADS] if arguments.quick else LOADS
    rates: Rates = {load.name: {} for load in loads}
    ours = Client(CONTEX, Path(sys.executable), "benchmarks.peers.to_contex")
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        peers = await _installed(Path(folder), console)

        def note(load: Load, name: str, rate: Rate) -> None:
            rates[load.name].setdefault(name, []).append(rate)
            text = f"  {load.name}: {name} {rate.events_per_s:,.0f} events/s"
            console.print(f"[dim]{text}[/dim]", highlight=False)

        for _ in range(arguments.runs):
            for peer in peers:
                async with peer.serve(arguments.data_dir) as running:
                    for load in loads:
                        note(load, peer.name, await measure(peer, running, load))
            async with _contex(arguments.data_dir) as (server, running):
                for load in loads:
                    rate = await measure(ours, running, load)
                    note(load, CONTEX, rate)
                    note(
                        load, RAW, measure_raw(server, load, int(rate.events_per_s * load.seconds))
                    )
    return rates, [peer.name for peer in peers]


def main() -> int:
    """Measures and reports; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="measurements of each figure")
    parser.add_argument("--quick", action="store_true", help="small sizes: does everything work?")
    results_dir = Path(__file__).parents[1] / "results"
    parser.add_argument("--out", type=Path, default=results_dir, help="where the JSON file goes")
    parser.add_argument(
        *("--data-dir",),
        type=Path,
        default=Path("/var/tmp"),
        help="where all servers keep their data; a real disk, or fsync means nothing",
    )
    arguments = parser.parse_args()
    console = report.console()
    found = facts(arguments.data_dir)
    console.print(summary(found), highlight=False)
    size = f"payloads of {PAYLOAD_BYTES} bytes under {KEYS} keys, fsync on, everything on loopback"
    console.print(size, highlight=False)
    assert len(event(0)[1]) == PAYLOAD_BYTES
    rates, names = asyncio.run(_measure_all(arguments, console))
    results = figures_of(rates)
    console.print(report.table(results))
    for line in processor_lines(rates):
        console.print(line, highlight=False)
    found["peers"] = names
    console.print(f"written: {report.write(arguments.out, found, results)}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
