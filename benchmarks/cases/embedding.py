"""New texts: embedded and appended by Publish, against the embedder alone; and that one
against the plain way to run the model.

DATA in the environment may name a file of documents, one JSON object with `data_key`,
`description` and `data` a line; by default they are the standard library's.
"""

from __future__ import annotations

import ast
import os
import sysconfig
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import orjson
from contex.v1 import event_service_pb2
from contex_server.matching.describe import describe
from contex_server.matching.embedders.minilm import EarlierMiniLM, MiniLM
from contex_server.matching.embedders.onnx import Pipeline
from contex_server.matching.embedders.port import Role

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target
from benchmarks.load import PUBLISH, channels, closed_loop, unary
from benchmarks.messages import request

IN_FLIGHT = 64
NAIVE_BATCH = 32


async def run(bench: Bench) -> list[Figure]:
    """Texts a second, and a second of the server's processor time.

    Each run has texts of its own: a text is embedded once per project and remembered beyond.
    """
    documents = list(_documents())
    count = min(bench.size(600, 100), len(documents) // bench.runs)
    source = iter(documents)
    ours, alone, per_core, store, naive = [], [], [], [], []
    embedder = MiniLM(cached_texts=1)
    earlier = EarlierMiniLM()
    pipeline = earlier.load().pipeline
    async with bench.server("embedding") as server:
        for number in range(bench.runs):
            events = list(islice(source, count))
            described = [describe(e.data_key, e.description, e.payload, "") for e in events]
            texts = list(dict.fromkeys(text for each in described for text in each.texts))
            start, before = time.perf_counter(), time.process_time()
            for at in range(0, len(texts), IN_FLIGHT):
                await embedder.embed(texts[at : at + IN_FLIGHT], Role.DATUM)
            used = time.process_time() - before
            alone.append(len(texts) / (time.perf_counter() - start))
            naive.append(_naive(pipeline, texts))

            async with channels(server.target, 2) as opened:
                calls = [unary(channel, PUBLISH) for channel in opened]
                warm = event_service_pb2.NewEvent(data_key="warm", payload=b"{}")
                await closed_loop(calls, [request(f"embedding-{number}", [warm])] * 10, 10)
                requests = [request(f"embedding-{number}", [event]) for event in events]
                begin = server.cpu()
                seconds = await closed_loop(calls, requests, IN_FLIGHT)
                end = server.cpu()
            ours.append(len(texts) / seconds)
            per_core.append(len(texts) / (end.server - begin.server))
            store.append(len(texts) / used)
            bench.say(
                f"{ours[-1]:.0f} texts/s, {per_core[-1]:.0f} a core; "
                f"the embedder alone {alone[-1]:.0f}/s, {store[-1]:.0f} a core; "
                f"naive {naive[-1]:.0f} a core"
            )
    await embedder.close()
    await earlier.close()
    return [
        Figure(
            f"new texts embedded and appended, {IN_FLIGHT} in flight",
            "texts/s",
            ours,
            alone,
            "the embedder alone, in the same texts",
            details={"documents": count},
        ),
        Figure(
            "new texts for a second of the embedder's processor time",
            "texts/s/core",
            store,
            naive,
            f"in float32, batches of {NAIVE_BATCH} as they come, padded to their longest",
            Target("ratio", 2.0),
        ),
        Figure(
            "new texts for a second of the server's processor time",
            "texts/s/core",
            per_core,
            store,
            "the embedder alone",
        ),
    ]


def _naive(pipeline: Pipeline, texts: list[str]) -> float:
    """Texts for a second of processor time, the same network run without thought."""
    before = time.process_time()
    for at in range(0, len(texts), NAIVE_BATCH):
        pipeline.run(pipeline.tokens(texts[at : at + NAIVE_BATCH]))
    return len(texts) / (time.process_time() - before)


def _documents() -> Iterator[event_service_pb2.NewEvent]:
    path = os.environ.get("DATA")
    return _of_file(Path(path)) if path else _of_the_standard_library()


def _of_file(path: Path) -> Iterator[event_service_pb2.NewEvent]:
    with path.open("rb") as lines:
        for line in lines:
            document = orjson.loads(line)
            yield event_service_pb2.NewEvent(
                data_key=document["data_key"],
                description=document["description"],
                payload=orjson.dumps(document["data"]),
            )


def _of_the_standard_library() -> Iterator[event_service_pb2.NewEvent]:
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
