"""Every field of every RPC is refused as documented, and no harm is done."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import pytest
from contex.v1 import event_pb2, event_service_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration.hostile import (
    access,
    agents,
    audit,
    events,
    matches,
    projects,
    shared,
    states,
    transfers,
)
from tests.integration.hostile.scene import METHODS, MIB, VALID, Scene
from tests.integration.hostile.table import CASES, MALFORMED, Case, nested
from tests.integration.support import (
    DEADLINE_S,
    PublishRequest,
    batches,
    event,
    in_stream,
    order,
    own,
    refusal,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


# Each of them puts its cases into the table.
TABLES = (access, agents, audit, events, matches, projects, shared, states, transfers)
BY_FIELD: dict[str, list[Case]] = defaultdict(list)
"""All cases of one field of an RPC are one test: what surrounds a test costs more than a case."""
for _case in CASES:
    BY_FIELD[f"{_case.rpc}-{_case.field}"].append(_case)
_CLOCK = re.compile(r"[-0-9T:.]{20,}Z")
"""The store's time, in errors that tell it."""


@pytest.mark.parametrize("field", BY_FIELD)
async def test_hostile_input_is_refused_as_documented(unharmed: Scene, field: str) -> None:
    for case in BY_FIELD[field]:
        try:
            refused = await refusal(unharmed.call(case.rpc, case.raw))
        except BaseException as error:
            error.add_note(f"by the case {case}")
            raise
        assert (refused.code, refused.reason) == (case.code, case.reason), case
        assert refused.fields[:1] == ([case.field] if case.field else []), case
        assert case.says in refused.message, case
        assert case.metadata == set(refused.metadata), case
        # The message is for a person's eye: no limit of the caller's on its length, or on its
        # lines.
        assert len(refused.message) < 400, case
        assert refused.message.isprintable(), case


def paths(message: Descriptor, prefix: str = "") -> Iterator[str]:
    for field in message.fields:
        name = f"{prefix}{field.name}"
        inner = field.message_type
        if inner is None or inner.GetOptions().map_entry or inner.full_name.startswith("google."):
            if field.type != FieldDescriptor.TYPE_BOOL:  # Every value of those is a good one.
                yield name
        else:
            yield from paths(inner, f"{name}.")


async def test_the_table_holds_every_rpc_and_every_field(scene: Scene) -> None:
    assert set(VALID) == {case.rpc for case in CASES} == set(METHODS)
    named = {(case.rpc, f"{case.field.replace('[1]', '')}") for case in CASES}
    # A batch of a stream is a publish; see the test below.
    fields = {(rpc, path) for rpc, m in METHODS.items() for path in paths(m.input_type)}
    # The bytes of a file come after a start: see test_transfer.py.
    named |= {("ImportProject", "data")}
    # What a consumer says after its start: see tests/integration/groups.
    fields = {(rpc, path) for rpc, path in fields if rpc != "Consume" or path.startswith("start.")}
    # What only answers tell.
    told = ("needs.id", "questions.id", "binding.update_time")
    fields = {(rpc, path) for rpc, path in fields if not path.endswith(told)}
    # What a field of a message in a list is called there.
    named |= {(rpc, path.replace("[1]", "")) for rpc, path in named}
    assert {(r, p) for r, p in fields - named if r != "PublishStream"} == set()
    assert list(paths(METHODS["PublishStream"].input_type)) == [
        f"{field}.{path}"
        for field in ("publish", "more")
        for path in paths(METHODS["Publish"].input_type)
    ]
    for rpc, method in METHODS.items():
        assert VALID[rpc].DESCRIPTOR is method.input_type


def _in_stream(publishes: Sequence[bytes]) -> bytes:
    """A request of a stream with these bytes of publishes."""
    raw = bytearray()
    for tag, publish in zip(b"\x0a" + b"\x12" * len(publishes), publishes, strict=False):
        raw.append(tag)
        rest = len(publish)
        while rest > 0x7F:
            raw.append(rest & 0x7F | 0x80)
            rest >>= 7
        raw.append(rest)
        raw += publish
    return bytes(raw)


@pytest.mark.parametrize("size", [1, 5])
async def test_a_stream_refuses_the_same_in_the_same_words_and_goes_on(
    scene: Scene, size: int
) -> None:
    cases = [c for c in CASES if c.rpc == "Publish" and c.reason != "MALFORMED_REQUEST"]
    assert len(cases) > 100
    before = await scene.count()
    project = f"stream-{size}"
    publishes: list[bytes] = []
    for i, case in enumerate(cases):
        good = PublishRequest(project=project, events=[own(f"t{i}")])
        publishes += (case.raw, good.SerializeToString())
    call: Any = scene.api.channel.stream_stream("/contex.v1.EventService/PublishStream")(
        timeout=DEADLINE_S
    )

    async def write() -> None:
        for several in batches(publishes, size):
            await call.write(_in_stream(several))
        await call.done_writing()

    writing = asyncio.create_task(write())
    responses = [event_service_pb2.PublishStreamResponse.FromString(a) async for a in call]
    await writing
    assert {response.max_batches for response in responses} == {256}
    answers = [answer for response in responses for answer in (response, *response.more)]
    assert len(answers) == len(publishes)
    for case, refused, good_answer in zip(cases, answers[::2], answers[1::2], strict=True):
        assert len(good_answer.published.receipts) == 1, case
        unary = await refusal(scene.call("Publish", case.raw))
        told = refused.refused
        assert told.code == getattr(grpc.StatusCode, unary.code).value[0], case
        assert told.reason == unary.reason, case
        assert _CLOCK.sub("", told.message) == _CLOCK.sub("", unary.message), case
        assert dict(told.metadata) == unary.metadata, case
        assert not told.HasField("retry_delay_ms"), case
        # Headers have room for fewer.
        violations = [v.field for v in told.field_violations]
        assert unary.fields == violations[: len(unary.fields)], case
        assert len(unary.fields) > 30 or len(unary.fields) == len(violations), case
        assert refused.request_id == PublishRequest.FromString(case.raw).request_id, case
    assert await scene.count() == before
    assert [e.event_type for e in await scene.api.log(project)] == [
        f"t{i}" for i in range(len(cases))
    ]


async def test_bytes_that_are_no_batch_end_a_stream_after_the_answers_before(scene: Scene) -> None:
    good = in_stream(project="cut", events=[event()]).SerializeToString()
    call: Any = scene.api.channel.stream_stream("/contex.v1.EventService/PublishStream")(
        timeout=DEADLINE_S
    )
    for body in (good, good, MALFORMED["cut off"]):
        await call.write(body)
    answered = [await call.read(), await call.read()]
    assert all(
        event_service_pb2.PublishStreamResponse.FromString(a).HasField("published")
        for a in answered
    )
    refused = await refusal(call.read())
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
    assert len(await scene.api.log("cut")) == 2


@pytest.mark.parametrize("rpc", ["Publish", "PublishStream", "Subscribe", "Acknowledge"])
async def test_a_message_of_20_mb_is_refused_by_the_transport(unharmed: Scene, rpc: str) -> None:
    # As an unknown field, which any message may have.
    body = VALID[rpc].SerializeToString() + nested((1_000,), bytes(20_000_000))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await unharmed.call(rpc, body)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "grpc-status-details-bin" not in dict(error.value.trailing_metadata() or ())


async def test_what_is_just_within_the_limits_is_taken(scene: Scene) -> None:
    api = scene.api
    await api.publish(
        event(
            "K" * 256,
            b'"' + b"x" * (MIB - 2) + b'"',
            description="😀" * 1_024,
            content_type="text/plain;" + " " * 117,
            metadata={f"{i:064}": "v" * 64 for i in range(32)},
        ),
        project="p" * 64,
        request_id="r" * 64,
        publisher="p" * 128,
    )
    await api.publish(*[own("t" * 64)] * 1_000, project="limits")
    await api.publish(event("deep", b"[" * 250 + b"]" * 250), project="limits")
    answer = await api.register(
        "A" * 128, *["😀" * 1_000] * 32, project="limits", threshold=1.0, max_matches=100
    )
    assert len(answer.agent.needs) == 32
    listening = api.listen("A" * 128, "limits", heartbeat_interval_ms=60_000)
    await (await listening.live()).cancel()
    page = await api.page(
        "limits",
        page_size=1_000,
        event_types=["t" * 64] * 32,
        until=event_pb2.Position(time=Timestamp(seconds=253_402_300_799, nanos=999_999_999)),
    )
    assert len(page.events) == 1_000
    assert order(page.events[0].sequence) < order(page.events[-1].sequence)
