"""One who sees a part of a project learns nothing of the rest, by whatever it asks for."""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from contex.v1.consumer_pb2 import ListParkedRequest
from contex_server import server as module
from contex_server.agents import visibility
from contex_server.edge import chain
from contex_server.edge.incoming import Link
from contex_server.kernel.config import Settings
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
    ROWS,
    Answer,
    Scene,
    access,
    decoded,
    fill,
    readable,
    standing,
    tokens_of,
)
from tests.integration.support import Api, GetAgentRequest, P, Words

pytestmark = pytest.mark.asyncio(loop_scope="module")
_NAMED = re.compile(rb"[a-z.-]*canary[a-z.-]*( apples)?")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene() -> AsyncIterator[Scene]:
    def links(*given: Any) -> tuple[Link, ...]:
        return chain.links(*given[:-1], access, *given[-1:])

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


def _check(scene: Scene, name: str, request: Any, answer: Answer) -> None:
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
    named = set(str(request).split('"'))
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
