"""A request with two fields at fault is refused with both."""

from __future__ import annotations

from typing import Any

import pytest
from contex.v1 import event_pb2
from contex.v1.access_service_pb2 import Binding, Grant, Role, Tenant, UsageLimits
from contex.v1.agent_service_pb2 import MinDelta, Need
from contex.v1.audit_service_pb2 import AuditFilter
from contex.v1.consumer_pb2 import ConsumeStart
from contex.v1.project_service_pb2 import Retention
from contex.v1.transfer_service_pb2 import ImportStart, KeyMapping, Redaction
from google.protobuf.duration_pb2 import Duration

from tests.integration.hostile.scene import METHODS, VALID, Scene
from tests.integration.support import EventFilter, P, event, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")

NO_MOMENT = event_pb2.Position(sequence="x")
TWO: dict[str, dict[str, Any]] = {
    "Publish": {"durability": 9, "request_id": "*"},
    "ListEvents": {"page_size": -1, "page_token": "x"},
    "Replay": {"order": 9, "cursor": "x"},
    "Subscribe": {"heartbeat_interval_ms": 1, "after_sequence": "x"},
    "RegisterAgent": {"agent_id": "*", "last_seen_sequence": "x"},
    "UpdateAgent": {"agent_id": "*", "max_context_tokens": 0},
    "ListAgents": {"page_size": -1, "page_token": "x"},
    "Listen": {"agent_id": "*", "cursor": "x"},
    "Acknowledge": {"agent_id": "*", "sequence": "x"},
    "WaitForAgent": {"agent_id": "*", "sequence": "x"},
    "Consume": {"start": ConsumeStart(project=P, agent_id="*", consumer="*")},
    "SeekConsumerGroup": {"agent_id": "*", "after_sequence": "x"},
    "ListParked": {"agent_id": "*", "page_size": -1},
    "RedriveParked": {"agent_id": "*", "parked_ids": ["x"]},
    "DropParked": {"agent_id": "*", "parked_ids": ["x"]},
    "Match": {"max_matches": 1_000, "as_of": NO_MOMENT},
    "Explain": {"text": "", "data_key": ""},
    "Backtest": {"threshold": 2.0, "since": NO_MOMENT},
    "RecordFeedback": {"agent_id": "*", "request_id": "*"},
    "ExportFeedback": {"since": NO_MOMENT, "until": NO_MOMENT},
    "GetAgentContext": {"agent_id": "*", "as_of": NO_MOMENT},
    "ListDeliveries": {"agent_id": "*", "page_token": "x"},
    "GetState": {"view": 9, "page_size": -1},
    "StreamState": {"prefix": "\n", "after_data_key": "\n"},
    "DiffStates": {"base": NO_MOMENT, "target": NO_MOMENT},
    "GetHistory": {"data_key": "", "page_size": -1},
    "GetRevision": {"data_key": "", "revision": 0},
    "GetBlame": {"data_key": "", "as_of": NO_MOMENT},
    "ListRecords": {"page_size": -1, "order": 9},
    "ExportRecords": {"format": 9, "since": NO_MOMENT},
    "ListProjects": {"name": "\\", "page_token": "x"},
    "DeleteProject": {"request_id": "", "reason": ""},
    "SetRetention": {"retention": Retention(store_seconds=2**63, store_events=2**63)},
    "RemoveEvents": {"before": NO_MOMENT, "reason": ""},
    "EraseData": {"subject": "*", "reason": ""},
    "GetActivity": {"dimension": 1, "names": ["a"], "top": 1_000},
    "ExportProject": {"format": 9, "resume_token": "x"},
    "ImportProject": {"start": ImportStart(project="*", import_id="*")},
    "AssignAgents": {"agent_ids": "", "identity": ""},
    "CheckAccess": {"identity": "\n", "data_key": "\n"},
    "CreateKey": {"identity": "", "tenant": "*"},
    "ListKeys": {"identity": "\n", "page_token": "x"},
    "RotateKey": {"key_id": "*", "ttl": Duration(nanos=-1)},
    "SetBinding": {"binding": Binding(identity="", tenant="*")},
    "ListBindings": {"page_size": -1, "page_token": "x"},
    "SetRole": {"role": Role(name="*", permissions=[0])},
    "SetTenant": {"tenant": Tenant(name="*", projects=[""])},
}
"""What makes two fields of a valid request invalid."""
ONE_FIELD = {
    # The project alone, which is checked before the others.
    *("GetProject", "GetStats", "GetRetention", "VerifyProject", "GetMatchingStatus"),
    "SetEncryption",
    *("GetEvent", "GetAgent", "UnregisterAgent", "GetConsumerGroup"),
    *("GetServerInfo", "WhoAmI", "ListRoles", "ListTenants"),
    *("RevokeKey", "DeleteBinding", "DeleteRole", "DeleteTenant", "GetUsage"),
    "PublishStream",  # The same check as of Publish.
}
INSIDE: list[tuple[str, dict[str, Any], set[str]]] = [
    (
        "ListEvents",
        {"filter": EventFilter(data_keys=["\\", "\\"], publishers=["\n"])},
        {"filter.data_keys[0]", "filter.data_keys[1]", "filter.publishers[0]"},
    ),
    (
        "Match",
        {"questions": [Need(text="", threshold=2.0), Need(text="")]},
        {"questions[0].text", "questions[0].threshold", "questions[1].text"},
    ),
    (
        "UpdateAgent",
        {"min_delta": MinDelta(json_pointers=["x", "y"])},
        {"min_delta.json_pointers[0]", "min_delta.json_pointers[1]"},
    ),
    (
        "ListRecords",
        {"filter": AuditFilter(actions=[99], agent_ids=["*"])},
        {"filter.actions[0]", "filter.agent_ids[0]"},
    ),
    (
        "ImportProject",
        {
            "start": ImportStart(
                project="a",
                remap_keys=[KeyMapping(from_prefix="", to_prefix="\n")],
                redactions=[Redaction(json_pointer="x", replacement=b"1")],
            )
        },
        {
            *("start.remap_keys[0].from_prefix", "start.remap_keys[0].to_prefix"),
            *("start.redactions[0].json_pointer", "start.redactions[0].replacement"),
        },
    ),
    (
        "SetBinding",
        {
            "binding": Binding(
                identity="a", grants=[Grant(role="*", data_keys=["\n"]), Grant(role="*")]
            )
        },
        {
            *("binding.grants[0].role", "binding.grants[0].projects"),
            *("binding.grants[0].data_keys[0]", "binding.grants[1].role"),
            "binding.grants[1].projects",
        },
    ),
    (
        "SetTenant",
        {"tenant": Tenant(name="t", limits=UsageLimits(agents=-1, needs=-1))},
        {"tenant.limits.agents", "tenant.limits.needs"},
    ),
    ("Replay", {"speed": 0.0, "max_pause_ms": 2**32 - 1}, {"speed", "max_pause_ms"}),
    (
        "Publish",
        {"events": [event("\n", description="x" * 5_000)], "durability": 9, "publisher": "\n"},
        {"events[0].data_key", "events[0].description", "durability", "publisher"},
    ),
]
"""The same inside the messages of requests, with the names of the fields."""


async def fields(scene: Scene, rpc: str, changes: dict[str, Any]) -> list[str]:
    request: Any = type(VALID[rpc])()
    request.CopyFrom(VALID[rpc])
    for name in changes:
        request.ClearField(name)
    request.MergeFrom(type(request)(**changes))
    refused = await refusal(scene.call(rpc, request.SerializeToString()))
    assert refused.code == "INVALID_ARGUMENT"
    return refused.fields


@pytest.mark.parametrize("rpc", sorted(METHODS.keys() - ONE_FIELD))
async def test_both_fields_at_fault_are_named(scene: Scene, rpc: str) -> None:
    found = await fields(scene, rpc, TWO[rpc])
    assert len(found) == len(set(found)) == 2


@pytest.mark.parametrize(("rpc", "changes", "expected"), INSIDE, ids=[i[0] for i in INSIDE])
async def test_so_are_those_inside_messages(
    scene: Scene, rpc: str, changes: dict[str, Any], expected: set[str]
) -> None:
    found = await fields(scene, rpc, changes)
    assert (len(found), set(found)) == (len(expected), expected)


async def test_no_more_than_50_are_named(scene: Scene) -> None:
    keys = ["\\"] * 32
    needs = [Need(text="", exclude_data_keys=keys) for _ in range(32)]
    named = await fields(scene, "RegisterAgent", {"needs": needs})
    assert 32 < len(named) <= 50  # As many as an error's headers have room for.
