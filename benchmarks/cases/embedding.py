"""New texts: embedded and appended by Publish, against the embedder alone."""

from __future__ import annotations

import ast
import sysconfig
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from contex.v1 import event_service_pb2
from contex_server.matching.describe import describe
from contex_server.matching.embedder import MiniLM

from benchmarks.bench import Bench
from benchmarks.figures import Figure
from benchmarks.load import PUBLISH, channels, closed_loop, unary
from benchmarks.messages import request

IN_FLIGHT = 64


async def run(bench: Bench) -> list[Figure]:
    """Texts a second, and a second of the server's processor time.

    Each run has texts of its own: a text is embedded once per project and remembered beyond.
    """
    count = bench.size(600, 100)
    source = _documents()
    ours, alone, per_core, store = [], [], [], []
    embedder = MiniLM()
    embedder.load()
    async with bench.server("embedding") as server:
        for number in range(bench.runs):
            events = list(islice(source, count))
            texts = [describe(e.data_key, e.description, e.payload, "") for e in events]
            assert len(set(texts)) == count
            start, before = time.perf_counter(), time.process_time()
            for at in range(0, count, IN_FLIGHT):
                await embedder.embed(texts[at : at + IN_FLIGHT])
            used = time.process_time() - before
            alone.append(count / (time.perf_counter() - start))

            async with channels(server.target, 2) as opened:
                calls = [unary(channel, PUBLISH) for channel in opened]
                warm = event_service_pb2.NewEvent(data_key="warm", payload=b"{}")
                await closed_loop(calls, [request(f"embedding-{number}", [warm])] * 10, 10)
                requests = [request(f"embedding-{number}", [event]) for event in events]
                begin = server.cpu()
                seconds = await closed_loop(calls, requests, IN_FLIGHT)
                end = server.cpu()
            ours.append(count / seconds)
            per_core.append(count / (end.server - begin.server))
            store.append(count / used)
            bench.say(
                f"{ours[-1]:.0f} texts/s, {per_core[-1]:.0f} a core; "
                f"the embedder alone {alone[-1]:.0f}/s"
            )
    await embedder.close()
    return [
        Figure(
            f"new texts embedded and appended, {IN_FLIGHT} in flight",
            "texts/s",
            ours,
            alone,
            "the embedder alone, in the same texts",
            details={"texts": count},
        ),
        Figure(
            "new texts for a second of the server's processor time",
            "texts/s/core",
            per_core,
            store,
            "the embedder alone",
        ),
    ]


def _documents() -> Iterator[event_service_pb2.NewEvent]:
    """Functions and classes of the standard library, with what their docstrings say."""
    seen = set()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            if len(text) < 40 or text in seen:
                continue
            seen.add(text)
            yield event_service_pb2.NewEvent(
                data_key=f"python/{path.stem}/{node.name}",
                description=text[:1_000],
                payload=b'{"module":"%s","line":%d}' % (path.stem.encode(), node.lineno),
            )
