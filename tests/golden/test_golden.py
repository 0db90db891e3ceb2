"""Data that an earlier version wrote are read as they were, and gone on with.

See record.py for what was recorded, and docs/adr/0017 for the rules. The recording is never made
anew: a field that a later version adds to an answer is named in `questions.ADDED`.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import grpc
import pytest
import redis.asyncio
from contex.v1.event_pb2 import ORDER_BACKWARDS, EventFilter
from contex.v1.event_service_pb2 import ListEventsRequest, NewEvent
from contex_server.log.embedded import EmbeddedValkey
from contex_server.matching.embedders.minilm import MiniLM
from contex_server.matching.models import Models

from tests.conftest import StartServer
from tests.golden import questions
from tests.golden.questions import Api, Json, differences
from tests.golden.record import publish, unpack

pytestmark = pytest.mark.own_store

HERE = Path(__file__).parent


def _read(name: str) -> Json:
    return questions.in_names_of_now(json.loads((HERE / name).read_text()))


def _half() -> bytes:
    return (HERE / "half.ctx").read_bytes()


@pytest.fixture
def data_dir(request: pytest.FixtureRequest, data_dir: Path) -> Path:
    """A copy of recorded data, where the store of the test will find them."""
    unpack(HERE / request.param, data_dir)
    return data_dir


@pytest.fixture
async def another_embeds(valkey: EmbeddedValkey) -> None:
    """Another process has taken it on to embed the data anew.

    As long as that takes, the data are matched by the model and the rule that they were stored
    with. The event that ends it would move the ends of their logs.
    """
    async with redis.asyncio.from_url(valkey.url) as client:
        keys = [key async for key in client.scan_iter("ctx:*:matching")]
        assert keys
        for key in keys:
            task = key.removesuffix(b"matching") + b"task:embedding"
            await client.set(task, "another process", ex=600)


@pytest.mark.own_store
@pytest.mark.usefixtures("another_embeds")
@pytest.mark.parametrize("data_dir", ["main.tar.xz"], indirect=True)
async def test_a_data_directory(
    data_dir: Path, valkey: EmbeddedValkey, start_server: StartServer
) -> None:
    server = await start_server(valkey.url, data_dir=data_dir, **questions.SETTINGS)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        found = await questions.ask_main(Api(channel), _read("saved.json"), _half())
    recorded = _read("answers.json")["main"]
    # Its end is under this version's model, and counts as an event: see below.
    del recorded["reembedding"], recorded["writes"]["verified"]["models"]
    del found["writes"]["verified"]["models"]
    # What changed needs brought was in the message that told of them, and comes as deliveries now.
    before, now = (answers["behind"].pop("support") for answers in (recorded, found))
    assert before["kinds"] == now["kinds"] == ["events", "needs_changed", "caught_up"]
    assert _sequences(before) <= _sequences(now)
    assert "\n".join(differences(recorded, found)) == ""


def _sequences(streamed: Json) -> set[str]:
    """The events of a stream, and those that told of a change of needs."""
    told = [item for item in streamed["events"] if "event" not in item]
    events = [item for item in streamed["events"] if "event" in item]
    events += [datum for item in told for datum in item["needs_changed"].get("data", ())]
    return {event["event"]["sequence"] for event in events}


@pytest.mark.own_store
@pytest.mark.parametrize("data_dir", ["main.tar.xz"], indirect=True)
async def test_a_change_of_models_that_was_interrupted_ends_under_the_present_one(
    data_dir: Path, valkey: EmbeddedValkey, start_server: StartServer
) -> None:
    recorded = _read("answers.json")["main"]["reembedding"]
    server = await start_server(valkey.url, data_dir=data_dir, **questions.SETTINGS)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        found = await questions.finish_reembedding(Api(channel), _read("saved.json"))
    assert (found["before"], found["total"]) == (recorded["before"], recorded["total"])
    assert found["after"] == Models(MiniLM()).configured_id
    changed = {"model": found["after"], "previous": found["before"]}
    assert changed in [json.loads(base64.b64decode(payload)) for _, payload in found["told"]]


@pytest.mark.own_store
@pytest.mark.usefixtures("another_embeds")
@pytest.mark.parametrize("data_dir", ["plain.tar.xz"], indirect=True)
async def test_a_store_without_archive_and_master_key(
    data_dir: Path, valkey: EmbeddedValkey, start_server: StartServer
) -> None:
    server = await start_server(
        valkey.url, redis_url=valkey.url, data_dir=data_dir / "none", **questions.SETTINGS
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        found = await questions.ask_plain(Api(channel), _read("saved.json"), _half())
    assert "\n".join(differences(_read("answers.json")["plain"], found)) == ""
    assert not (data_dir / "none").exists()


@pytest.mark.own_store
@pytest.mark.parametrize("data_dir", ["main.tar.xz"], indirect=True)
async def test_descriptions_of_that_time_carry_over(
    data_dir: Path, valkey: EmbeddedValkey, start_server: StartServer
) -> None:
    """Its events are archived, and the store knows nothing of their descriptions."""
    server = await start_server(valkey.url, data_dir=data_dir, **questions.SETTINGS)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        api = Api(channel)
        for key in ("warehouse/berlin", "warehouse/berlin", "payments/paypal", "i18n/greeting"):
            await publish(api, "shop", NewEvent(data_key=key, payload=b"{}"))
        request = ListEventsRequest(
            project="shop",
            order=ORDER_BACKWARDS,
            page_size=4,
            filter=EventFilter(data_keys=["*"]),  # Not what the service itself writes meanwhile.
        )
        events = (await api.events.ListEvents(request)).events
    described = [(e.data_key, e.description) for e in events]
    assert described == [
        ("i18n/greeting", ""),  # It has been deleted.
        ("payments/paypal", "Payment provider configuration"),
        ("warehouse/berlin", "Stock levels in the Berlin warehouse"),
        ("warehouse/berlin", "Stock levels in the Berlin warehouse"),
    ]
