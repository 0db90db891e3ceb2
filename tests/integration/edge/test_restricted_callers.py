"""One who sees a part of a project learns nothing of the rest, by whatever it asks for."""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from contex.v1.agent_service_pb2 import ListDeliveriesRequest
from contex.v1.audit_service_pb2 import AUDIT_ACTION_REFUSED, AuditFilter, ListRecordsRequest
from contex.v1.consumer_pb2 import GetConsumerGroupRequest, ListParkedRequest
from contex.v1.event_service_pb2 import PublishResponse
from contex.v1.match_service_pb2 import RecordFeedbackRequest, RecordFeedbackResponse
from contex.v1.state_service_pb2 import GetHistoryRequest
from contex_server import server as module
from contex_server.agents import visibility
from contex_server.api.shared.cursors import Token, encode_position, page_token
from contex_server.edge import chain
from contex_server.edge.incoming import Link
from contex_server.kernel.call import Call
from contex_server.kernel.config import Settings
from contex_server.kernel.model import Proven, Sequence
from contex_server.server import Server
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.canaries import captured_logs
from tests.conftest import running_store
from tests.integration.edge.restricted import (
    ABSENT,
    ABSENT_AGENT,
    CANARY,
    HIDDEN,
    HIDDEN_AGENT,
    ITS_OWN,
    METHODS,
    OPEN_TO_PARTS,
    PAGED,
    ROWS,
    SCOPES,
    SEEN,
    Answer,
    Scene,
    access,
    decoded,
    fill,
    readable,
    standing,
    tokens_of,
)
from tests.integration.groups.worker import Worker
from tests.integration.support import (
    DEADLINE_S,
    Api,
    GetAgentRequest,
    ListenRequest,
    ListEventsRequest,
    P,
    PublishRequest,
    ReplayRequest,
    SubscribeRequest,
    Words,
    event,
    eventually,
    order,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
_NAMED = re.compile(rb"[a-z.-]*canary[a-z.-]*( apples)?")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene() -> AsyncIterator[Scene]:
    def links(*given: Any) -> tuple[Link, ...]:
        return chain.links(*given[:5], access, *given[5:])  # Where `authorize` is.

    with (
        tempfile.TemporaryDirectory(prefix="ctx") as name,
        captured_logs() as logs,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(module, "links", links)
        patch.setattr(visibility, "standing", standing)
        directory = Path(name)
        async with running_store(directory) as store:
            settings = Settings(port=0, data_dir=directory, match_threshold=0.02)
            server = await Server.start(settings, store.url, embedder=Words())
            async with Api.of(server) as api:
                made = Scene(server, api)
                await fill(made)
                yield made
            await server.stop()
    failed = [entry for entry in logs if entry["event"] == "internal_error"]
    assert failed == [], failed


async def test_every_method_has_a_row() -> None:
    assert ROWS.keys() == set(OPEN_TO_PARTS)


def _check(scene: Scene, name: str, request: Any, answer: Answer, *known: str) -> None:
    kind = GetMessageClass(METHODS[name].output_type)
    tokens = b"".join(
        decoded(token)
        for each in answer.messages
        for token in tokens_of(kind.FromString(each))
        if token
    )
    everything = answer.raw + tokens + readable(name, request, answer.messages)
    for given in set(_NAMED.finditer(request.SerializeToString())):
        everything = everything.replace(given[0], b"")  # The caller's own words.
    assert CANARY not in everything.lower(), (name, request, everything)
    assert not [proof for proof in scene.proofs if proof in tokens], (name, request)
    named = {*str(request).split('"'), *known}
    told = [s for s in scene.hidden if s.encode() in answer.error and s not in named]
    assert told == [], (name, request, answer.error)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("identity", ["guest", "blind"])
async def test_nothing_hidden_is_in_any_answer(scene: Scene, identity: str, name: str) -> None:
    for request in ROWS[name](scene):
        for answer in await scene.every_page(identity, name, request):
            _check(scene, name, request, answer)


_CREATING = {"RegisterAgent", "Publish", "PublishStream"}
"""Here a name that is taken can't be as one that is free."""


@pytest.mark.parametrize("name", sorted(ROWS.keys() - _CREATING))
async def test_what_is_hidden_is_as_what_does_not_exist(scene: Scene, name: str) -> None:
    for request in ROWS[name](scene):
        raw = request.SerializeToString()
        twin = _renamed(raw)
        if twin == raw or b"public" in raw or b"guest" in raw:
            continue
        other = type(request).FromString(twin)
        told, absent = [await scene.call("guest", name, each) for each in (request, other)]
        assert _timeless(name, told) == _timeless(name, absent), (name, request)


def _renamed(raw: bytes) -> bytes:
    """The same with names of the same length that nothing has."""
    raw = raw.replace(HIDDEN.encode(), ABSENT.encode())
    return raw.replace(HIDDEN_AGENT.encode(), ABSENT_AGENT.encode())


def _timeless(name: str, answer: Answer) -> tuple[list[Any], bytes]:
    """An answer but for when it was given, and with names that nothing has."""
    kind = GetMessageClass(METHODS[name].output_type)
    messages = [kind.FromString(_renamed(each)) for each in answer.messages]
    for message in messages:
        _forget_times(message)
    return messages, _renamed(answer.error)


_OF_THE_MOMENT = {"data", "digest", "byte_count", "resume_token", "next_page_token"}
"""Files say when they were made, and tokens what was asked."""


def _forget_times(message: Message) -> None:
    for descriptor, value in message.ListFields():
        inner = descriptor.message_type
        if (descriptor.type == descriptor.TYPE_MESSAGE and inner.name == "Timestamp") or (
            descriptor.name in _OF_THE_MOMENT and not descriptor.is_repeated
        ):
            message.ClearField(descriptor.name)
        elif descriptor.type == descriptor.TYPE_MESSAGE and not inner.GetOptions().map_entry:
            for each in value if descriptor.is_repeated else (value,):
                _forget_times(each)


_SHOWS_NONE = {
    *("GetServerInfo", "ListProjects", "GetProject", "WaitForAgent", "Acknowledge"),
    *("RecordFeedback", "UpdateAgent", "UnregisterAgent", "SeekConsumerGroup", "Consume"),
    *("RedriveParked", "DropParked", "GetConsumerGroup"),
}
"""They change something, or tell by numbers what there is."""
_SHOWN = sorted(ROWS.keys() - _CREATING - _SHOWS_NONE)


@pytest.mark.parametrize("name", _SHOWN)
async def test_who_sees_everything_is_shown_it(scene: Scene, name: str) -> None:
    for request in ROWS[name](scene):
        for answer in await scene.every_page("", name, request):
            shown = b"".join(answer.messages) + readable(name, request, answer.messages)
            if CANARY in shown.lower():
                return
    raise AssertionError(f"{name} tells nothing that could be hidden")


async def test_the_hidden_things_are_all_there_still(scene: Scene) -> None:
    agents = await scene.call("", "GetAgent", GetAgentRequest(project=P, agent_id=HIDDEN_AGENT))
    assert not agents.error
    parked = ListParkedRequest(project=P, agent_id=ITS_OWN)
    (left,) = (await scene.call("", "ListParked", parked)).messages
    assert HIDDEN.encode() in left
    log = {each.sequence for each in await scene.api.log()}
    assert {*scene.hidden, *scene.seen} <= log


async def test_a_page_token_is_of_the_scope_that_it_was_made_in(scene: Scene) -> None:
    for name in PAGED:
        for request in islice(ROWS[name](scene), 4):
            request.page_size = 1
            kind = GetMessageClass(METHODS[name].output_type)
            made: dict[str, str] = {}
            for identity in ("", "guest"):
                (*_, answer) = (await scene.call(identity, name, request)).messages or [b""]
                made[identity] = kind.FromString(answer).next_page_token
            for identity, token in made.items():
                for other in {"", "guest", "blind"} - {identity}:
                    if not token:
                        continue
                    again = type(request)()
                    again.CopyFrom(request)
                    again.page_token = token
                    refused = await scene.call(other, name, again)
                    # Or it is of an agent that the other one does not see.
                    reasons = (b"CURSOR_INVALID", b"AGENT_NOT_FOUND")
                    assert any(r in refused.error for r in reasons), (
                        name,
                        identity,
                        other,
                        request,
                        refused,
                    )


async def test_forged_tokens_show_nothing(scene: Scene) -> None:
    """Made as the server makes them: positions carry no authority."""
    realm = Call("", "", None, project=P, scope=SCOPES["guest"]).realm
    for hidden in scene.hidden:
        place = Sequence.parse(hidden)
        for position in (place, Proven.of(place), Proven.of(place, b"12345678")):
            page = encode_position(Token.EVENTS_PAGE, realm, position)
            cursor = encode_position(Token.CURSOR, P, position)
            for name, request in (
                ("ListEvents", ListEventsRequest(project=P, page_token=page)),
                ("Replay", ReplayRequest(project=P, cursor=cursor)),
                ("Subscribe", SubscribeRequest(project=P, cursor=cursor)),
                ("Listen", ListenRequest(project=P, agent_id=ITS_OWN, cursor=cursor)),
            ):
                answer = await scene.call("guest", name, request)
                _check(scene, name, request, answer, hidden)
        history = GetHistoryRequest(project=P, data_key=SEEN, omit_patches=True)
        numbers = (place.ms, place.n, place.ms, place.ms, place.n)
        history.page_token = page_token(Token.HISTORY_PAGE, realm, history, numbers)
        answer = await scene.call("guest", "GetHistory", history)
        assert b"CURSOR_INVALID" in answer.error
        _check(scene, "GetHistory", history, answer)


async def test_a_request_id_of_a_hidden_publish_is_free(scene: Scene) -> None:
    await scene.api.publish(event(HIDDEN, b'"canary"'), request_id="taken")
    (last,) = await scene.api.publish(event(HIDDEN, b'"canary"'), request_id="taken.too")
    request = PublishRequest(project=P, request_id="taken", events=[event(SEEN, b'"apples"')])
    receipts = []
    for _ in range(2):
        (raw,) = (await scene.call("guest", "Publish", request)).messages
        receipts.append(PublishResponse.FromString(raw))
    first, again = receipts
    assert order(first.receipts[0].sequence) > order(last)
    assert again.duplicate
    assert again.receipts == first.receipts
    verdict = RecordFeedbackRequest(
        project=P, agent_id=ITS_OWN, sequence=scene.seen[0], request_id="taken.too"
    )
    told = [(await scene.call("guest", "RecordFeedback", verdict)).messages for _ in range(2)]
    assert told[0] == told[1]
    (raw,) = told[0]
    assert order(RecordFeedbackResponse.FromString(raw).sequence) > order(last)


async def test_a_consumer_is_given_what_it_may_see_and_the_rest_is_settled(scene: Scene) -> None:
    api, agent_id = scene.api, "guest-consumer"
    await api.register(agent_id, "apples", last_seen_sequence="0")
    listener = await api.listen(agent_id).until(lambda s: {SEEN, HIDDEN} <= set(s.keys))
    await listener.cancel()
    headers = (("contex-identity", "guest"),)
    async with Worker(api, "g", agent_id, metadata=headers) as worker:
        for n in range(5):
            await api.publish(event(HIDDEN, b'"canary apples, later %d"' % n))
        (last,) = await api.publish(event(SEEN, b'"apples at last"'))
        while not worker.deliveries or worker.deliveries[-1].matched.event.sequence != last:
            given = await worker.until(lambda: [d for d in worker.deliveries if _is_left(d)])
            for each in given:
                _SETTLED.add(each.delivery_id)
                await worker.ack(each.delivery_id)
        await worker.ack(worker.deliveries[-1].delivery_id)
        assert {each.matched.event.data_key for each in worker.deliveries} == {SEEN}
        assert CANARY not in b"".join(m.SerializeToString() for m in worker.messages)
        state = GetConsumerGroupRequest(project=P, agent_id=agent_id)

        async def is_settled() -> bool:
            group = await api.agents.GetConsumerGroup(state, timeout=DEADLINE_S)
            return (group.outstanding_count, group.backlog_count) == (0, 0)

        await eventually(is_settled)
    sent = ListDeliveriesRequest(project=P, agent_id=agent_id, page_size=1_000)
    deliveries = (await api.agents.ListDeliveries(sent, timeout=DEADLINE_S)).deliveries
    consumed = {each.stream_id for each in deliveries if each.sequence == last}
    assert len(consumed) == 1
    assert {each.data_key for each in deliveries if each.stream_id in consumed} == {SEEN}

    async def is_told() -> bool:
        wanted = AuditFilter(actions=[AUDIT_ACTION_REFUSED], actors=["guest"])
        request = ListRecordsRequest(project=P, filter=wanted, page_size=1_000)
        records = (await api.audits.ListRecords(request, timeout=DEADLINE_S)).records
        told = [r for r in records if r.detail == f"Consume: withheld from {agent_id}"]
        return sum(r.count for r in told) >= 5

    await eventually(is_told)


_SETTLED: set[str] = set()


def _is_left(delivery: Any) -> bool:
    return delivery.delivery_id not in _SETTLED
