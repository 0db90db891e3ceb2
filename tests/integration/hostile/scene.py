"""The server that is sent hostile input, and a raw view of its services."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from contex.v1 import (
    access_pb2,
    access_service_pb2,
    agent_service_pb2,
    audit_service_pb2,
    event_pb2,
    event_service_pb2,
    match_service_pb2,
    project_service_pb2,
    server_service_pb2,
    state_service_pb2,
    transfer_service_pb2,
)
from contex.v1.agent_service_pb2 import (
    AssignAgentsRequest,
    GetAgentContextRequest,
    ListDeliveriesRequest,
    Need,
    WaitForAgentRequest,
)
from contex.v1.audit_service_pb2 import ExportRecordsRequest, ListRecordsRequest
from contex.v1.consumer_pb2 import (
    ConsumeRequest,
    ConsumeStart,
    DropParkedRequest,
    GetConsumerGroupRequest,
    ListParkedRequest,
    RedriveParkedRequest,
    SeekConsumerGroupRequest,
)
from contex.v1.match_service_pb2 import (
    BacktestRequest,
    ExplainRequest,
    ExportFeedbackRequest,
    GetMatchingStatusRequest,
    MatchRequest,
    RecordFeedbackRequest,
)
from contex.v1.project_service_pb2 import (
    DeleteProjectRequest,
    EraseDataRequest,
    GetActivityRequest,
    GetProjectRequest,
    GetRetentionRequest,
    GetStatsRequest,
    ListProjectsRequest,
    RemoveEventsRequest,
    SetEncryptionRequest,
    SetRetentionRequest,
    VerifyProjectRequest,
)
from contex.v1.state_service_pb2 import (
    DiffStatesRequest,
    GetBlameRequest,
    GetHistoryRequest,
    GetRevisionRequest,
    GetStateRequest,
    StreamStateRequest,
)
from contex.v1.transfer_service_pb2 import ExportProjectRequest, ImportProjectRequest, ImportStart
from contex_server.server import Server
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from tests.integration.support import (
    DEADLINE_S,
    AcknowledgeRequest,
    Api,
    GetAgentRequest,
    GetEventRequest,
    ListAgentsRequest,
    ListenRequest,
    ListEventsRequest,
    P,
    PublishRequest,
    RegisterAgentRequest,
    ReplayRequest,
    SubscribeRequest,
    UnregisterAgentRequest,
    UpdateAgentRequest,
    event,
    in_stream,
)

AGENT = "agent"
KIB, MIB = 1024, 1024 * 1024


SERVICES = (
    event_service_pb2.DESCRIPTOR.services_by_name["EventService"],
    agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"],
    match_service_pb2.DESCRIPTOR.services_by_name["MatchService"],
    state_service_pb2.DESCRIPTOR.services_by_name["StateService"],
    audit_service_pb2.DESCRIPTOR.services_by_name["AuditService"],
    project_service_pb2.DESCRIPTOR.services_by_name["ProjectService"],
    transfer_service_pb2.DESCRIPTOR.services_by_name["TransferService"],
    server_service_pb2.DESCRIPTOR.services_by_name["ServerService"],
    access_service_pb2.DESCRIPTOR.services_by_name["AccessService"],
)
METHODS: dict[str, MethodDescriptor] = {m.name: m for s in SERVICES for m in s.methods}

VALID: dict[str, Message] = {
    "Publish": PublishRequest(project=P, events=[event()]),
    "PublishStream": in_stream(project=P, events=[event()]),
    "GetEvent": GetEventRequest(project=P, sequence="1-0"),
    "ListEvents": ListEventsRequest(project=P),
    "Replay": ReplayRequest(project=P),
    "Subscribe": SubscribeRequest(project=P),
    "RegisterAgent": RegisterAgentRequest(project=P, agent_id=AGENT, needs=[Need(text="a need")]),
    "UpdateAgent": UpdateAgentRequest(project=P, agent_id=AGENT),
    "GetAgent": GetAgentRequest(project=P, agent_id=AGENT),
    "ListAgents": ListAgentsRequest(project=P),
    "UnregisterAgent": UnregisterAgentRequest(project=P, agent_id=AGENT),
    "Listen": ListenRequest(project=P, agent_id=AGENT),
    "Acknowledge": AcknowledgeRequest(project=P, agent_id=AGENT, sequence="0"),
    "WaitForAgent": WaitForAgentRequest(project=P, agent_id=AGENT, sequence="0", timeout_ms=0),
    "Consume": ConsumeRequest(start=ConsumeStart(project=P, agent_id=AGENT, consumer="w")),
    "GetConsumerGroup": GetConsumerGroupRequest(project=P, agent_id=AGENT),
    "SeekConsumerGroup": SeekConsumerGroupRequest(project=P, agent_id=AGENT, after_sequence="0"),
    "ListParked": ListParkedRequest(project=P, agent_id=AGENT),
    "RedriveParked": RedriveParkedRequest(project=P, agent_id=AGENT),
    "DropParked": DropParkedRequest(project=P, agent_id=AGENT, parked_ids=["1-0"]),
    "Match": MatchRequest(project=P, questions=[Need(text="a question")]),
    "Explain": ExplainRequest(project=P, text="a need", data_key="k0"),
    "Backtest": BacktestRequest(project=P, needs=[Need(text="a need")]),
    "RecordFeedback": RecordFeedbackRequest(project=P, agent_id=AGENT, sequence="1-0"),
    "ExportFeedback": ExportFeedbackRequest(project=P),
    "GetMatchingStatus": GetMatchingStatusRequest(project=P),
    "GetAgentContext": GetAgentContextRequest(project=P, agent_id=AGENT),
    "ListDeliveries": ListDeliveriesRequest(project=P, agent_id=AGENT),
    "GetState": GetStateRequest(project=P),
    "StreamState": StreamStateRequest(project=P),
    "DiffStates": DiffStatesRequest(project=P, base=event_pb2.Position(sequence="0")),
    "GetHistory": GetHistoryRequest(project=P, data_key="k0"),
    "GetRevision": GetRevisionRequest(project=P, data_key="k0", revision=1),
    "GetBlame": GetBlameRequest(project=P, data_key="k0"),
    "ListRecords": ListRecordsRequest(project=P),
    "ExportRecords": ExportRecordsRequest(project=P),
    "ListProjects": ListProjectsRequest(),
    "GetProject": GetProjectRequest(project=P),
    "DeleteProject": DeleteProjectRequest(project=P, request_id="r", reason="a reason"),
    "GetStats": GetStatsRequest(project=P),
    "GetRetention": GetRetentionRequest(project=P),
    "SetRetention": SetRetentionRequest(project=P),
    "SetEncryption": SetEncryptionRequest(project=P),
    "RemoveEvents": RemoveEventsRequest(
        project=P, before=event_pb2.Position(sequence="1-0"), reason="a reason"
    ),
    "EraseData": EraseDataRequest(project=P, subject="nobody", request_id="r", reason="a reason"),
    "VerifyProject": VerifyProjectRequest(project=P),
    "GetActivity": GetActivityRequest(project=P),
    "ExportProject": ExportProjectRequest(project=P),
    "ImportProject": ImportProjectRequest(start=ImportStart(project="imported")),
    "GetServerInfo": server_service_pb2.GetServerInfoRequest(),
    "AssignAgents": AssignAgentsRequest(project=P, agent_ids="*", identity="somebody"),
    "WhoAmI": access_service_pb2.WhoAmIRequest(),
    "CheckAccess": access_service_pb2.CheckAccessRequest(project=P, method="GetState"),
    "CreateKey": access_service_pb2.CreateKeyRequest(identity="somebody"),
    "ListKeys": access_service_pb2.ListKeysRequest(),
    "RotateKey": access_service_pb2.RotateKeyRequest(key_id="0"),
    "RevokeKey": access_service_pb2.RevokeKeyRequest(key_id="0"),
    "SetBinding": access_service_pb2.SetBindingRequest(
        binding=access_service_pb2.Binding(identity="somebody")
    ),
    "ListBindings": access_service_pb2.ListBindingsRequest(),
    "DeleteBinding": access_service_pb2.DeleteBindingRequest(identity="nobody"),
    "SetRole": access_service_pb2.SetRoleRequest(
        role=access_service_pb2.Role(name="r", permissions=[access_pb2.PERMISSION_READ])
    ),
    "ListRoles": access_service_pb2.ListRolesRequest(),
    "DeleteRole": access_service_pb2.DeleteRoleRequest(name="nothing"),
    "SetTenant": access_service_pb2.SetTenantRequest(
        tenant=access_service_pb2.Tenant(name="t", projects=["t-*"])
    ),
    "ListTenants": access_service_pb2.ListTenantsRequest(),
    "DeleteTenant": access_service_pb2.DeleteTenantRequest(name="nothing"),
    "GetUsage": access_service_pb2.GetUsageRequest(tenant="default"),
}


@dataclass(frozen=True)
class Scene:
    """A server with some events and an agent, and a raw view of its services."""

    server: Server
    api: Api
    defects: list[Any]

    async def call(self, rpc: str, *raws: bytes, answers: int = 1) -> list[bytes]:
        """Sends bytes as they are; returns the first answers, or raises the call's error."""
        method = METHODS[rpc]
        channel = self.api.channel
        path = f"/{method.containing_service.full_name}/{rpc}"
        if method.client_streaming:
            call: Any = channel.stream_stream(path)(timeout=DEADLINE_S)
            for raw in raws:
                await call.write(raw)
            await call.done_writing()
        elif method.server_streaming:
            call = channel.unary_stream(path)(raws[0], timeout=DEADLINE_S)
        else:
            return [await channel.unary_unary(path)(raws[0], timeout=DEADLINE_S)]
        read: list[bytes] = []
        while len(read) < answers and (answer := await call.read()) is not grpc.aio.EOF:
            read.append(answer)
        call.cancel()
        return read

    async def state(self) -> Any:
        """What a refused call must leave as it is; agents are in contact all the same."""
        log = self.server.rooms.storage.log
        bounds = await log.bounds(P)
        agents = self.server.rooms.storage.store.agents
        records = [agent._replace(contact_ms=0) for agent in await agents.agents(P, "", 10)]
        return bounds._replace(now_ms=0), records

    async def count(self) -> int:
        return len((await self.api.page(page_size=1_000)).events)
