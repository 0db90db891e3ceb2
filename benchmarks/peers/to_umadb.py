"""Writes a load to UmaDB: a thread and a connection for each writer. Has its own environment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import umadb

from benchmarks.peers.load import EVENT_TYPE, Run, told, wait_for_go


def main() -> None:
    """Runs it."""
    target, load = told()
    clients = [umadb.Client(f"http://{target}") for _ in range(load.writers)]
    before = max(client.head() or 0 for client in clients)
    with ThreadPoolExecutor(load.writers) as threads:
        wait_for_go()
        run = Run(load)

        def write(writer: int) -> int:
            written = 0
            for batch in run.batches(writer):
                events = [umadb.Event(EVENT_TYPE, payload, [key]) for key, payload in batch]
                clients[writer].append(events)
                written += len(batch)
            return written

        run.events = sum(threads.map(write, range(load.writers)))
        run.report()
    stored = (clients[0].head() or 0) - before
    assert stored == run.events, f"{stored} events are there, of {run.events}"


if __name__ == "__main__":
    main()
