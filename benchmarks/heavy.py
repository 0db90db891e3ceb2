"""Heavy work in some projects, in a process of its own, over and over until its input ends.

    python -m benchmarks.heavy TARGET backtest:PROJECT export-native:PROJECT import:PROJECT ...

Says in a line of JSON that everything is at work, and at the end how often each was done, a part of
the last time included, and in how many seconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import grpc
from contex.v1 import (
    agent_service_pb2,
    event_service_pb2,
    match_service_pb2,
    project_service_pb2,
    state_service_pb2,
    transfer_service_pb2,
)

from benchmarks.load import PUBLISH, channels, open_stream, read, unary
from benchmarks.messages import request, with_request_id
from benchmarks.processes import ROOT

_BACKTEST = "/contex.v1.MatchService/Backtest"
_EXPORT = "/contex.v1.TransferService/ExportProject"
_IMPORT = "/contex.v1.TransferService/ImportProject"
_MATCH = "/contex.v1.MatchService/Match"
_HISTORY = "/contex.v1.StateService/GetHistory"
_STATE = "/contex.v1.StateService/GetState"
_STATS = "/contex.v1.ProjectService/GetStats"
_DELETE = "/contex.v1.ProjectService/DeleteProject"
_NEEDS = ("Deployment of a service", "API endpoint and timeouts", "Errors of a region")
_FORMATS = {
    "export-native": transfer_service_pb2.EXPORT_FORMAT_NATIVE,
    "export-json": transfer_service_pb2.EXPORT_FORMAT_JSON_LINES,
    "export-cloud": transfer_service_pb2.EXPORT_FORMAT_CLOUD_EVENTS,
    "export-parquet": transfer_service_pb2.EXPORT_FORMAT_PARQUET,
}
_CHUNK_BYTES = 1 << 20

Advance = Callable[[float], None]
"""Told how much of a piece of work is done, from 0 to 1."""
Work = Callable[[grpc.aio.Channel, str, Advance], Awaitable[None]]


async def backtest(channel: grpc.aio.Channel, project: str, advance: Advance) -> None:
    """What three needs would have received of the whole log."""
    asked = match_service_pb2.BacktestRequest(
        project=project, needs=[agent_service_pb2.Need(text=text) for text in _NEEDS]
    )
    call = open_stream(channel, _BACKTEST, asked.SerializeToString())
    while (raw := await read(call)) is not None:
        answer = match_service_pb2.BacktestResponse.FromString(raw)
        if answer.HasField("progress"):
            advance(answer.progress.events_read / answer.progress.events_total)


def export(name: str) -> Work:
    """An export in a format; all but Parquet are compressed."""

    async def run(channel: grpc.aio.Channel, project: str, advance: Advance) -> None:
        async for answer in exported(channel, project, name):
            if answer.total_count:
                advance(answer.scanned_count / answer.total_count)

    return run


async def exported(
    channel: grpc.aio.Channel, project: str, name: str = "export-native"
) -> AsyncIterator[transfer_service_pb2.ExportProjectResponse]:
    """The pieces of an export."""
    native, parquet = name == "export-native", name == "export-parquet"
    asked = transfer_service_pb2.ExportProjectRequest(
        project=project,
        format=_FORMATS[name],
        compress=not native and not parquet,  # A native export is always compressed.
        include=[transfer_service_pb2.EXPORT_PART_VECTORS] if native else [],
    )
    call = open_stream(channel, _EXPORT, asked.SerializeToString())
    while (raw := await read(call)) is not None:
        yield transfer_service_pb2.ExportProjectResponse.FromString(raw)


class Imports:
    """Imports a native export of one project under a new name; what was imported is deleted."""

    def __init__(self) -> None:
        self._file = b""

    async def run(self, channel: grpc.aio.Channel, project: str, advance: Advance) -> None:
        """One import of the export of `project`."""
        if not self._file:
            self._file = b"".join([piece.data async for piece in exported(channel, project)])
        target = f"copy-{uuid4().hex}"
        await import_file(channel, target, self._file, advance)
        asked = project_service_pb2.DeleteProjectRequest(
            project=target, request_id=target, reason="a benchmark"
        )
        await unary(channel, _DELETE)(asked.SerializeToString())


async def import_file(
    channel: grpc.aio.Channel, project: str, file: bytes, advance: Advance = lambda _: None
) -> None:
    """Imports a native export into an empty project."""
    method: Any = channel.stream_stream(_IMPORT)

    async def requests() -> AsyncIterator[bytes]:
        start = transfer_service_pb2.ImportStart(project=project)
        yield transfer_service_pb2.ImportProjectRequest(start=start).SerializeToString()
        for at in range(0, len(file), _CHUNK_BYTES):
            data = file[at : at + _CHUNK_BYTES]
            yield transfer_service_pb2.ImportProjectRequest(data=data).SerializeToString()
        finish = transfer_service_pb2.ImportFinish()
        yield transfer_service_pb2.ImportProjectRequest(finish=finish).SerializeToString()

    async for raw in method(requests()):
        answer = transfer_service_pb2.ImportProjectResponse.FromString(raw)
        advance(answer.byte_count / len(file))


async def match(channel: grpc.aio.Channel, project: str, advance: Advance) -> None:
    """What matches 32 questions, now and in the middle of the log."""
    bounds = project_service_pb2.GetStatsResponse.FromString(
        await unary(channel, _STATS)(
            project_service_pb2.GetStatsRequest(project=project).SerializeToString()
        )
    )
    asked = match_service_pb2.MatchRequest(project=project, max_matches=100)
    for number in range(32):
        asked.questions.add(text=f"{_NEEDS[number % len(_NEEDS)]} {number}")
    asked.as_of.sequence = bounds.last_sequence
    await unary(channel, _MATCH)(asked.SerializeToString())


async def history(channel: grpc.aio.Channel, project: str, advance: Advance) -> None:
    """All revisions of a datum, with their patches."""
    asked = state_service_pb2.GetHistoryRequest(
        project=project, data_key="service.0", page_size=1_000
    )
    await unary(channel, _HISTORY)(asked.SerializeToString())


async def state(channel: grpc.aio.Channel, project: str, advance: Advance) -> None:
    """A page of the state, with payloads."""
    asked = state_service_pb2.GetStateRequest(project=project, page_size=1_000)
    await unary(channel, _STATE)(asked.SerializeToString())


async def publishing(channel: grpc.aio.Channel, project: str, advance: Advance) -> None:
    """Publishes 64 events of 4 KiB each, of another project than those that are scanned."""
    payload = b'{"text":"%s"}' % (b"large words " * 340)
    events = [event_service_pb2.NewEvent(data_key=f"large.{n}", payload=payload) for n in range(64)]
    await unary(channel, PUBLISH)(with_request_id(request(f"{project}-large", events)))


_SIMPLE: dict[str, Work] = {
    "backtest": backtest,
    "match": match,
    "history": history,
    "state": state,
    "publish": publishing,
}


def _work(name: str) -> Work:
    if name in _SIMPLE:
        return _SIMPLE[name]
    return Imports().run if name == "import" else export(name)


async def _repeat(target: str, job: str, done: dict[str, float], ready: asyncio.Barrier) -> None:
    name, _, project = job.partition(":")
    work, finished = _work(name), 0
    async with channels(target) as (channel,):
        if name == "import":
            await work(channel, project, lambda _: None)  # Makes the file, too.
        await ready.wait()

        def advance(part: float) -> None:
            done[job] = finished + part

        while True:
            await work(channel, project, advance)
            finished += 1
            done[job] = finished


async def _run(target: str, jobs: list[str]) -> None:
    done = dict.fromkeys(jobs, 0.0)
    ready = asyncio.Barrier(len(jobs) + 1)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_repeat(target, job, done, ready)) for job in jobs]
        await ready.wait()
        start = time.perf_counter()
        print(json.dumps({"event": "at work"}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        seconds = time.perf_counter() - start
        print(json.dumps({job: done[job] / seconds for job in jobs}), flush=True)
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def heavy_work(target: str, jobs: list[str]) -> AsyncIterator[dict[str, float]]:
    """Heavy work during the `async with` block; then it tells how often a second each was done.

    Raises:
        RuntimeError: It did not begin.
    """
    rates: dict[str, float] = {}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.heavy", target, *jobs),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if not await process.stdout.readline():
            raise RuntimeError("heavy work did not begin")
        yield rates
        process.stdin.close()
        line = await process.stdout.readline()
        if not line:
            raise RuntimeError("heavy work failed")
        rates.update(json.loads(line))
    finally:
        if process.returncode is None:
            process.stdin.close()
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], sys.argv[2:]))
