"""An update without a description keeps the one that its datum has."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from contex.v1 import (
    agent_service_pb2,
    event_pb2,
    match_service_pb2,
    state_service_pb2,
    transfer_service_pb2,
)
from contex.v1.project_service_pb2 import EraseDataRequest
from contex_server.kernel.model import Append, Appended
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.port import DescriptionChanged, KeyDescription
from contex_server.log.redis.key_names import key as store_key
from contex_server.server import Server
from contex_server.tiers.sealed_log import SealedLog

from tests.canaries import CANARY
from tests.conftest import StartServer
from tests.integration.logs import archive, exported, imported
from tests.integration.support import (
    DEADLINE_S,
    Api,
    GetEventRequest,
    P,
    PublishRequest,
    PublishStreamRequest,
    Words,
    event,
    in_stream,
    own,
    refusal,
)
from tests.integration.support import NewEvent as Published
from tests.thorough import one_of

PRICES = "Prices in Europe"


@pytest.fixture
def api(small_api: Api) -> Api:
    return small_api


async def described(api: Api, project: str = P) -> list[str]:
    """The descriptions of a project's events of data."""
    return [e.description for e in await api.log(project) if e.data_key]


async def match(api: Api, question: str) -> list[Any]:
    request = match_service_pb2.MatchRequest(
        project=P, questions=[agent_service_pb2.Need(text=question)]
    )
    return list((await api.matches.Match(request, timeout=DEADLINE_S)).data)


async def test_an_update_without_a_description_is_matched_by_the_last_one(api: Api) -> None:
    await api.register("pricing", "prices in europe")
    live = await api.listen("pricing").live()
    await api.publish(event("tariff", b'{"fee": 2}', description=PRICES))
    await api.publish(event("tariff", b'{"fee": 3}'))
    await live.count(2)
    assert [e.description for e in live.events] == [PRICES, PRICES]
    assert live.events[0].text_digest == live.events[1].text_digest
    assert [m.matches[0].score > 0.5 for m in live.matched] == [True, True]
    await live.cancel()
    (datum,) = await match(api, "prices in europe")
    assert (datum.event.payload, datum.event.description) == (b'{"fee": 3}', PRICES)
    request = state_service_pb2.GetStateRequest(project=P)
    (entry,) = (await api.states.GetState(request)).data
    assert (entry.event.revision, entry.event.description) == (2, PRICES)
    history = state_service_pb2.GetHistoryRequest(project=P, data_key="tariff")
    answer = await api.states.GetHistory(history)
    assert [r.event.description for r in answer.revisions] == [PRICES, PRICES]
    asked = agent_service_pb2.GetAgentContextRequest(project=P, agent_id="pricing")
    context = await api.agents.GetAgentContext(asked)
    assert [d.event.description for d in context.known] == [PRICES]


async def test_an_empty_description_removes_it(api: Api) -> None:
    for text in (PRICES, None, "", None, "Tolls", None):
        fields: dict[str, Any] = {} if text is None else {"description": text}
        await api.publish(Published(data_key="tariff", payload=b"{}", **fields))
    assert await described(api) == [PRICES, PRICES, "", "", "Tolls", "Tolls"]


async def test_a_datum_that_returns_starts_without_one(api: Api) -> None:
    await api.publish(event("a", description=PRICES))
    await api.publish(event("a", b"", tombstone=True))
    await api.publish(event("a"))
    batch = [event("b", description="B"), event("b", b"", tombstone=True), event("b"), event("b")]
    await api.publish(*batch)
    assert await described(api) == [PRICES, "", "", "B", "", "", ""]


async def test_within_one_publish(api: Api) -> None:
    await api.publish(event("a", description="A"))
    await api.publish(
        *(event("a"), own(), event("b", description="B"), event("a", description="A2")),
        *(event("b"), event("a"), event("c"), event("a", event_type="moved")),
    )
    assert await described(api) == ["A", "A", "B", "A2", "B", "A2", "", "A2"]


async def test_a_request_that_was_answered_stays_answered(api: Api) -> None:
    request = PublishRequest(project=P, events=[event("a")], request_id="r")
    await api.publish(event("a", description="A"))
    first = await api.events.Publish(request)
    await api.publish(event("a", description="B"))
    again = await api.events.Publish(request)
    assert again.duplicate
    assert again.receipts == first.receipts
    await api.publish(event("a"))
    assert await described(api) == ["A", "A", "B", "B"]


async def test_a_conflict_of_revisions_is_told_though_the_description_is_wrong(
    api: Api, start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    other = await start_server(valkey.url, embedder=Words())
    await api.publish(event("a", description="A"))
    async with Api.of(other) as elsewhere:
        await elsewhere.publish(event("a", description="B"))
        refused = await refusal(api.publish(event("a", expected_revision=1)))
        assert refused.reason == "REVISION_CONFLICT"
        await api.publish(event("a", expected_revision=2))
    assert await described(api) == ["A", "B", "B"]


async def test_another_server_and_a_new_one_know_it(
    api: Api, start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    await api.publish(event("a", description="A"), event("b"))
    other = await start_server(valkey.url, embedder=words)
    async with Api.of(other) as elsewhere:
        await elsewhere.publish(event("a"), event("b"), event("new"))
        assert words.embedded == ["new"], "nothing is embedded in vain"
        await elsewhere.publish(event("a", description="A2"))
    await api.publish(event("a"))
    assert await described(api) == ["A", "", "A", "", "", "A2", "A2"]


async def test_what_an_older_server_published(api: Api, store: Any) -> None:
    """It calls the function by its old name, and tells nothing of descriptions."""
    await api.publish(event("a", description="A"), event("b", description="B"), event("c"))
    kinds = ("events", "stats", "activity", "activity-open", "audit", "state", "vectors:old")
    names = [store_key(P, kind) for kind in (*kinds, "requests:0", "requests:1", "matching")]
    for text in ("old", ""):
        for data_key in "ab":
            body = event_pb2.Event(
                event_type="data_published", data_key=data_key, payload=b"{}", description=text
            ).SerializeToString()
            reply = await store.execute_command(
                *("FCALL", "contex1_append", len(names), *names, 600, 0, "", 0),
                *("", "\t\t", "", 1, data_key, "", "", b"d" * 16, "data_published", body),
            )
            assert len(reply[0].split()) == 2
        await api.publish(event("a"))
    assert await described(api) == ["A", "B", "", "old", "old", "old", "", "", ""]


async def test_what_is_archived(
    api: Api, small_server: Server, start_server: StartServer, valkey: EmbeddedValkey, store: Any
) -> None:
    await api.publish(event("a", description="A"), event("b", description="B"))
    await archive(small_server)
    await store.hdel(store_key(P, "descriptions"), "a")  # as of events that were imported
    other = await start_server(valkey.url, embedder=Words())
    async with Api.of(other) as elsewhere:
        await elsewhere.publish(event("a"), event("b"))
    assert await described(api) == ["A", "B", "A", "B"]


async def test_two_servers_that_change_and_update_at_once(
    api: Api, start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    other = await start_server(valkey.url, embedder=Words())
    async with Api.of(other) as elsewhere:
        randomly = random.Random(7)

        async def write(through: Api, writer: int) -> None:
            for n in range(40):
                given = {"description": f"{writer} {n}"}
                fields: dict[str, Any] = given if randomly.random() < 0.4 else {}
                key = f"k{randomly.randrange(2)}"
                await through.publish(Published(data_key=key, payload=b"{}", **fields))

        await asyncio.gather(*(write([api, elsewhere][n % 2], n) for n in range(6)))
    log = await api.log()
    assert len(log) == 240
    assert_carried(log)
    digests = {(e.data_key, e.description): e.text_digest for e in log}
    assert len(set(digests.values())) == len(digests)
    for e in log:
        assert e.text_digest == digests[e.data_key, e.description]


def assert_carried(log: list[event_pb2.Event]) -> None:
    """Each event has the description of the one before, or one that was never given before."""
    last: dict[str, str] = {}
    given: set[str] = set()
    for e in log:
        if e.description != last.get(e.data_key, ""):
            assert e.description
            assert e.description not in given
            given.add(e.description)
        last[e.data_key] = e.description


@pytest.mark.parametrize("seed", one_of(*range(4)))
async def test_a_stream_keeps_its_order_where_a_batch_is_repeated(
    api: Api, start_server: StartServer, valkey: EmbeddedValkey, seed: int
) -> None:
    other = await start_server(valkey.url, embedder=Words())
    randomly = random.Random(seed)
    stopped = asyncio.Event()

    async def disturb(elsewhere: Api) -> None:
        number = 0
        while not stopped.is_set():
            number += 1
            await elsewhere.publish(event(f"k{number % 3}", description=f"other {number}"))

    def requests() -> list[PublishStreamRequest]:
        return [
            in_stream(
                project=P,
                request_id=str(number),
                events=[
                    event(
                        f"k{randomly.randrange(3)}",
                        b"%d" % number,
                        **(
                            {"description": f"mine {number} {part}"}
                            if randomly.random() < 0.2
                            else {}
                        ),
                    )
                    for part in range(randomly.randrange(1, 4))
                ],
            )
            for number in range(150)
        ]

    async with Api.of(other) as elsewhere:
        disturbing = asyncio.create_task(disturb(elsewhere))
        call = api.events.PublishStream(iter(requests()), timeout=DEADLINE_S)
        answers = [answer async for answer in call]
        stopped.set()
        await disturbing
    assert [a.WhichOneof("outcome") for a in answers] == ["published"] * 150
    log = await api.log()
    by_sequence = {e.sequence: n for n, e in enumerate(log)}
    places = [by_sequence[r.sequence] for a in answers for r in a.published.receipts]
    assert places == sorted(places)
    assert_carried(log)
    numbers = [int(e.payload) for e in log if e.payload != CANARY.encode()]
    assert numbers == sorted(numbers)


class Contended(SealedLog):
    """A log in which somebody is always faster."""

    attempts = 0

    async def append(self, append: Append) -> Appended:
        self.attempts += 1
        raise DescriptionChanged({"k": KeyDescription(f"T{self.attempts}", None)})


async def test_a_publish_is_not_repeated_for_ever(
    api: Api, small_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = small_server.rooms.storage
    log = Contended(storage.log, storage.sealer)
    monkeypatch.setattr(small_server.rooms.events.publisher, "_log", log)
    refused = await refusal(api.publish(event("k")))
    assert (refused.reason, log.attempts) == ("OVERLOADED", 16)
    assert refused.retry_after_ms
    monkeypatch.undo()
    await api.publish(event("k"))
    assert await described(api) == [""]


def of_anna(text: str | None = None, subject: str = "anna") -> Published:
    given: dict[str, Any] = {} if text is None else {"description": text}
    metadata = {"subject": subject} if subject else None
    return Published(data_key="person", payload=b"{}", metadata=metadata, **given)


async def test_what_is_sealed_for_a_person_stays_with_that_person(
    api: Api, start_server: StartServer, valkey: EmbeddedValkey, store: Any
) -> None:
    secret = "lives in the yellow house"
    await api.publish(of_anna(secret))
    await api.publish(of_anna())
    other = await start_server(valkey.url, embedder=Words())
    async with Api.of(other) as elsewhere:
        await elsewhere.publish(of_anna())
        assert await described(api) == [secret] * 3
        kept = await store.hgetall(store_key(P, "descriptions"))
        assert kept[b"person"].startswith(b"D")
        await elsewhere.publish(of_anna(subject="bert"))
    await api.publish(of_anna(secret), of_anna(subject=""), of_anna())
    await api.publish(of_anna("a person", subject=""), of_anna(), of_anna(subject=""))
    assert (await described(api))[3:] == ["", secret, "", "", "a person", "a person", ""]


async def test_what_was_erased_is_not_carried_over(api: Api, store: Any) -> None:
    await api.publish(of_anna("the yellow house"), event("k", description="kept"))
    await api.publish(of_anna())
    request = EraseDataRequest(project=P, request_id="r", reason="asked", subject="anna")
    await api.projects.EraseData(request, timeout=DEADLINE_S)
    assert not await store.exists(store_key(P, "descriptions"))
    await api.publish(of_anna(), event("k"))
    request = EraseDataRequest(project=P, request_id="r2", reason="asked", data_key="k")
    await api.projects.EraseData(request, timeout=DEADLINE_S)
    await api.publish(event("k"))
    log = [e for e in await api.log() if e.data_key]
    assert [e.description for e in log if e.data_key == "person"] == ["", "", ""]
    assert [e.description for e in log if e.data_key == "k"] == ["", "", ""]


async def test_imports(api: Api) -> None:
    await api.publish(event("a", description="A"), event("b", description="B"))
    await api.publish(event("a"), event("b", description=""), event("b", b"[]"))
    log = await described(api)
    data = await exported(api, P)
    for project, mode in (
        ("exact", transfer_service_pb2.IMPORT_MODE_EXACT),
        ("replayed", transfer_service_pb2.IMPORT_MODE_REPLAY),
    ):
        await imported(api, data, project, mode=mode)
        assert await described(api, project) == log
        await api.publish(event("a"), event("b"), project=project)
        assert await described(api, project) == [*log, "A", ""]


async def test_a_description_that_is_sent_is_no_empty_one(api: Api) -> None:
    """On the wire: unset keeps, "" removes."""
    assert not Published(data_key="k").HasField("description")
    assert Published(data_key="k", description="").HasField("description")
    (sequence,) = await api.publish(event("k", description=" \n"))
    got = await api.events.GetEvent(GetEventRequest(project=P, sequence=sequence))
    assert got.event.description == " \n"
    await api.publish(event("k"))
    assert await described(api) == [" \n", " \n"]
