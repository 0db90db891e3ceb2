"""No bytes at all make a defect."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
import pytest
from contex.v1 import event_service_pb2
from contex_server.api.shared.cursors import Token, encode_position
from contex_server.kernel.model import Sequence
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.hostile.scene import AGENT, METHODS, VALID, Scene
from tests.integration.hostile.table import EDGES, LAST
from tests.integration.support import P, Refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")


ALLOWED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE", "FAILED_PRECONDITION"}

TEXTS = st.one_of(
    st.sampled_from(
        [P, "random", AGENT, "k", "note", "0", "1-0", LAST, "", "*", "text/plain", "a" * 300]
    ),
    st.sampled_from([encode_position(t, P, s) for t in Token for s in (Sequence(1, 0), *EDGES)]),
    st.sampled_from([encode_position(t, "random", s) for t in Token for s in EDGES]),
    st.text(max_size=20),
)
INTEGERS = st.one_of(st.integers(0, 3), st.sampled_from([100, 2**31 - 1]))
VALUES: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: TEXTS,
    FieldDescriptor.TYPE_BYTES: st.one_of(st.sampled_from([b"{}", b"1"]), st.binary(max_size=40)),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: st.one_of(st.floats(0, 1), st.floats()),
    FieldDescriptor.TYPE_UINT32: INTEGERS,
    FieldDescriptor.TYPE_INT32: INTEGERS | st.just(-1),
    FieldDescriptor.TYPE_INT64: INTEGERS | st.sampled_from([-1, 2**63 - 1, 253_402_300_799]),
    FieldDescriptor.TYPE_UINT64: INTEGERS | st.sampled_from([2**53, 2**64 - 1]),
    FieldDescriptor.TYPE_ENUM: st.integers(-1, 5),
}


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor) -> Message:
    """A message with any of its fields, most of them plausible."""
    message: Any = message_factory.GetMessageClass(descriptor)()
    for field in descriptor.fields:
        name = field.name
        if name == "project":
            message.project = draw(st.sampled_from(["random", P, "random", "", "a b"]))
        elif not draw(st.booleans()):
            continue
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, name).update(draw(st.dictionaries(TEXTS, TEXTS, max_size=2)))
        elif field.message_type is not None:
            inner = messages(field.message_type)
            if field.is_repeated:
                getattr(message, name).extend(draw(st.lists(inner, max_size=3)))
            else:
                getattr(message, name).CopyFrom(draw(inner))
        elif field.is_repeated:
            getattr(message, name).extend(draw(st.lists(VALUES[field.type], max_size=3)))
        else:
            setattr(message, name, draw(VALUES[field.type]))
    return message


def bodies(method: MethodDescriptor) -> st.SearchStrategy[bytes]:
    whole = messages(method.input_type).map(lambda m: m.SerializeToString())
    spliced = st.tuples(whole, st.integers(0, 60), st.binary(max_size=6)).map(
        lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :]
    )
    return st.one_of(st.binary(max_size=200), whole, whole, spliced)


REQUESTS = st.sampled_from(sorted(METHODS)).flatmap(
    lambda rpc: st.tuples(st.just(rpc), bodies(METHODS[rpc]))
)


async def outcome(scene: Scene, rpc: str, body: bytes) -> str:
    """The code of a call; its error must be formed as documented."""
    try:
        answers = await scene.call(rpc, body)
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error).code
    if rpc == "PublishStream":
        answer = event_service_pb2.PublishStreamResponse.FromString(answers[0])
        return next(c.name for c in grpc.StatusCode if c.value[0] == answer.refused.code)
    return "OK"


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(requests=st.lists(REQUESTS, min_size=16, max_size=16))
async def test_no_bytes_at_all_make_a_defect(
    scene: Scene, requests: Iterable[tuple[str, bytes]]
) -> None:
    for rpc, body in requests:
        assert await outcome(scene, rpc, body) in ALLOWED, (rpc, body)
    assert [entry for entry in scene.defects if entry["event"] == "internal_error"] == []


@pytest.mark.parametrize("rpc", METHODS)
async def test_a_request_with_every_byte_changed_makes_no_defect(scene: Scene, rpc: str) -> None:
    body = VALID[rpc].SerializeToString()
    for place in range(len(body)):
        for change in (1, 0x80):
            changed = body[:place] + bytes([body[place] ^ change]) + body[place + 1 :]
            assert await outcome(scene, rpc, changed) in ALLOWED, changed
            try:
                type(VALID[rpc]).FromString(changed)
            except DecodeError:
                assert await outcome(scene, rpc, changed) == "INVALID_ARGUMENT"
