"""A server in a process that has loaded its modules and the model: most of what a start costs.

A process of its own imports this module, and is forked for each server; see `servers.py`.
"""

from __future__ import annotations

import atexit
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.connection import Connection

import psutil
from contex_cli import main
from contex_server.kernel import failpoints

importlib.import_module("contex_server.matching")  # Before numpy, so that it starts no threads.

# Before it is imported elsewhere: who takes a task over from a killed server waits this long.
_tasks = importlib.import_module("contex_server.log.tasks")
_tasks.HOLD_MS = 2_000  # type: ignore[attr-defined]
_tasks.Claims.__init__.__kwdefaults__["hold_ms"] = 2_000

for _module in (
    "contex_server.app",
    "contex_cli.server",
    "contex_server.serve",
    "faiss",
    "onnxruntime",
    "tokenizers",
):
    importlib.import_module(_module)

_minilm = importlib.import_module("contex_server.matching.embedders.minilm")
_minilm._read = cache(_minilm._read)  # type: ignore[attr-defined]
_minilm._read(None, _minilm.MODEL_ID, _minilm._TUNED)

_THREADS = psutil.Process().num_threads()
"""Of the process that is forked: with more than one, that isn't safe."""


def serve(arguments: Sequence[str], environment: Mapping[str, str], log: Connection) -> None:
    """Runs `contex serve`; its log goes to the connection."""
    assert _THREADS == 1
    os.dup2(log.fileno(), sys.__stderr__.fileno())
    log.close()
    os.environ.clear()
    os.environ.update(environment)
    importlib.reload(failpoints)  # It looks at the environment once.
    sys.argv = ["contex", "serve", *arguments]
    try:
        sys.exit(main())
    finally:
        atexit._run_exitfuncs()  # As an interpreter does that was started for this alone.
