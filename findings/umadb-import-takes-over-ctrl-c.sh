#!/usr/bin/env bash
# umadb (Python): importing it replaces the program's handler of SIGINT, so it can't be imported in
# a thread.
#
# Versions     umadb 0.7.8 (PyPI), Python 3.11 on Linux.
# Behaviour    A program sets a handler of SIGINT, then imports umadb, and is sent a SIGINT: its own
#              handler is not called, a KeyboardInterrupt is raised instead. Another program imports
#              umadb first in a thread: the import fails with "signal only works in main thread of
#              the main interpreter", and so does the next try.
# One would    have guessed: an import leaves signals alone, as of other gRPC clients.
# Seen         own handler called 0 times; "ValueError: signal only works in main thread of the main
#              interpreter".
# What helps   Import it in the main thread before anything else, then set the handler (again).
#
# Fails if an import leaves the handler as it was, or works in a thread.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check umadb==0.7.8

"$folder/venv/bin/python" - <<'PYTHON'
import os
import signal
import time

called = []
signal.signal(signal.SIGINT, lambda number, frame: called.append(number))
os.kill(os.getpid(), signal.SIGINT)
assert called == [signal.SIGINT], "the handler works before the import"
called.clear()

import umadb  # noqa: E402, F401

interrupted = False
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)
except KeyboardInterrupt:
    interrupted = True
print(f"own handler called {len(called)} times, KeyboardInterrupt: {interrupted}")
assert not called and interrupted, "the handler is left as it was: this finding is out of date"
PYTHON

"$folder/venv/bin/python" - <<'PYTHON'
import threading

said = []


def use() -> None:
    try:
        import umadb  # noqa: F401
    except ValueError as error:
        said.append(f"ValueError: {error}")


for _ in range(2):
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
print(*said, sep="\n")
assert len(said) == 2, "it can be imported in a thread: this finding is out of date"
PYTHON
