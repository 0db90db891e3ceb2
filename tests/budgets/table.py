"""What one request may cost: a heavy one for each RPC, and for each format it knows.

A new RPC gets a row here: the suite fails without. Limits are about three times what was measured
with 20,000 keys, for processors differ; only `HELD_MS` is the same for all and without slack.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from contex.v1 import access_service_pb2 as access
from contex.v1 import agent_service_pb2 as agents
from contex.v1 import audit_service_pb2 as audits
from contex.v1 import consumer_pb2 as consumers
from contex.v1 import event_pb2
from contex.v1 import event_service_pb2 as events
from contex.v1 import match_service_pb2 as matches
from contex.v1 import project_service_pb2 as projects
from contex.v1 import server_service_pb2 as servers
from contex.v1 import state_service_pb2 as states
from contex.v1 import transfer_service_pb2 as transfers
from contex_server.kernel.model import BEGINNING
from google.protobuf.message import Message

from tests.budgets.scene import (
    AGENT,
    BATCH,
    MIB,
    TYPES,
    P,
    Scene,
    large_event,
    small_event,
    some_needs,
)

HELD_MS = 20.0
"""How long any step of a call may hold the event loop, in processor time of its thread."""
IMPORT_HELD_MS = 100.0
"""The same for imports, which decode a file's pieces as they come."""

Make = Callable[[Scene], Iterable[Message]]


@dataclass(frozen=True)
class Row:
    """A request and what it may cost.

    Attributes:
        name: What is heavy about it.
        make: Makes the messages that are sent; called again for each try.
        cpu_ms: Processor time of all threads, those of the caller too.
        memory_mib: Growth of memory, with the answers as the caller reads them.
        log_bytes: Length of what is logged.
        held_ms: The longest step, where that is not `HELD_MS`.
        until: Ends a stream that would go on.
        before: Called before each try, and not measured.
    """

    rpc: str
    name: str
    make: Make
    cpu_ms: float
    memory_mib: float
    log_bytes: int = 500
    until: Callable[[bytes], bool] | None = None
    before: Callable[[Scene], Coroutine[Any, Any, object]] | None = None
    held_ms: float = HELD_MS

    def __str__(self) -> str:
        return f"{self.rpc} ({self.name})" if self.name else self.rpc


def _caught_up(kind: Any) -> Callable[[bytes], bool]:
    return lambda answer: bool(kind.FromString(answer).HasField("caught_up"))


def _fresh(scene: Scene) -> str:
    """A name that was not used before."""
    scene.serial += 1
    return f"fresh.{scene.serial}"


def _beginning() -> event_pb2.Position:
    return event_pb2.Position(sequence="0")


def _middle(scene: Scene) -> event_pb2.Position:
    return event_pb2.Position(sequence=scene.sequences[len(scene.sequences) // 2])


def _large(content_type: str) -> Callable[[Scene], list[Message]]:
    return lambda scene: [
        events.PublishRequest(project=_fresh(scene), events=[large_event("a", content_type)])
    ]


def _batches(scene: Scene) -> list[Message]:
    project = _fresh(scene)
    return [
        events.PublishStreamRequest(
            publish=events.PublishRequest(
                project=project,
                events=[small_event(f"item/{n}/{i}", i) for i in range(BATCH)],
            )
        )
        for n in range(3)
    ]


def _medium(scene: Scene) -> list[Message]:
    """Events that are each small enough to be described at once."""
    payload = b'{"text": "%s"}' % (b"many blue shoes, of leather. " * 550)
    batch = [
        events.NewEvent(data_key=f"k{n}", payload=payload[:-2] + b'%d"}' % n) for n in range(20)
    ]
    return [events.PublishRequest(project=_fresh(scene), events=batch)]


def _imported(format: transfers.ExportFormat.ValueType, mode: Any) -> Make:
    def make(scene: Scene) -> list[Message]:
        start = transfers.ImportStart(project=_fresh(scene), format=format, mode=mode)
        data = scene.exports[format]
        return [
            transfers.ImportProjectRequest(start=start),
            *(
                transfers.ImportProjectRequest(data=data[at : at + MIB])
                for at in range(0, len(data), MIB)
            ),
            transfers.ImportProjectRequest(finish=transfers.ImportFinish()),
        ]

    return make


async def _small_project(scene: Scene) -> None:
    await scene.publish((small_event(f"k{n}", n) for n in range(BATCH)), "small")


async def _fewer_matches(scene: Scene) -> None:
    """The agent keeps what it was sent, and is told of little else."""
    request = agents.UpdateAgentRequest(project=P, agent_id=AGENT, threshold=0.9)
    await scene.call("UpdateAgent", [request])


async def _load_exports(scene: Scene) -> None:
    for format in (NATIVE, LINES, CLOUD):
        if format not in scene.exports:
            request = transfers.ExportProjectRequest(project=P, format=format)
            answers = await scene.call("ExportProject", [request])
            parsed = map(transfers.ExportProjectResponse.FromString, answers)
            scene.exports[format] = b"".join(answer.data for answer in parsed)


NATIVE, LINES, CLOUD, PARQUET, LEGACY = (
    transfers.EXPORT_FORMAT_NATIVE,
    transfers.EXPORT_FORMAT_JSON_LINES,
    transfers.EXPORT_FORMAT_CLOUD_EVENTS,
    transfers.EXPORT_FORMAT_PARQUET,
    transfers.EXPORT_FORMAT_LEGACY_JSON,
)
_EVERYTHING = {"page_size": 1000}
_GLOBS = [f"item/*{n}" for n in range(8)]
_FORMS = {
    "JSON": event_pb2.CONTEXT_FORMAT_JSON,
    "YAML": event_pb2.CONTEXT_FORMAT_YAML,
    "Markdown": event_pb2.CONTEXT_FORMAT_MARKDOWN,
    "TOON": event_pb2.CONTEXT_FORMAT_TOON,
}


def _grants(count: int) -> list[access.Grant]:
    return [
        access.Grant(
            role="readonly",
            projects=[f"{n:02}-project-{glob:02}*" for glob in range(32)],
            data_keys=[f"{n:02}/*/{glob:02}" for glob in range(32)],
        )
        for n in range(count)
    ]


def _of_access(rpc: str, name: str, make: Callable[[Scene], Message], cpu_ms: float = 300) -> Row:
    return Row(rpc, name, lambda s: [make(s)], cpu_ms, 32, before=Scene.fill_access)


_OF: dict[str, Any] = {"project": P, "agent_id": AGENT}


def _start() -> consumers.ConsumeStart:
    return consumers.ConsumeStart(**_OF, consumer="w", max_outstanding_messages=1_000)


ROWS = [
    Row("GetServerInfo", "", lambda s: [servers.GetServerInfoRequest()], 100, 32),
    # -- the past ------------------------------------------------------------------
    Row(
        "GetState",
        "a page of all keys",
        lambda s: [states.GetStateRequest(project=P, **_EVERYTHING)],
        200,
        32,
    ),
    Row(
        "GetState",
        "globs",
        lambda s: [states.GetStateRequest(project=P, data_keys=_GLOBS, **_EVERYTHING)],
        200,
        32,
    ),
    Row(
        "GetState",
        "in the middle of the log",
        lambda s: [states.GetStateRequest(project=P, as_of=_middle(s), **_EVERYTHING)],
        400,
        32,
    ),
    Row(
        "GetState",
        "1 MiB payloads",
        lambda s: [states.GetStateRequest(project=P, prefix="large/")],
        100,
        32,
    ),
    Row("StreamState", "", lambda s: [states.StreamStateRequest(project=P)], 1500, 32),
    Row(
        "StreamState",
        "keys alone",
        lambda s: [states.StreamStateRequest(project=P, view=states.STATE_VIEW_KEYS)],
        500,
        32,
    ),
    Row(
        "DiffStates",
        "all keys were added",
        lambda s: [states.DiffStatesRequest(project=P, base=_beginning(), **_EVERYTHING)],
        600,
        32,
    ),
    Row(
        "DiffStates",
        "half of the keys, keys alone",
        lambda s: [
            states.DiffStatesRequest(
                project=P, base=_middle(s), view=states.STATE_VIEW_KEYS, **_EVERYTHING
            )
        ],
        500,
        32,
    ),
    Row(
        "GetHistory",
        "1 MiB revisions",
        lambda s: [states.GetHistoryRequest(project=P, data_key=s.large)],
        200,
        32,
    ),
    Row(
        "GetRevision",
        "1 MiB",
        lambda s: [states.GetRevisionRequest(project=P, data_key=s.large, revision=1)],
        100,
        32,
    ),
    Row(
        "GetBlame",
        "1 MiB",
        lambda s: [states.GetBlameRequest(project=P, data_key=s.large)],
        700,
        32,
    ),
    # -- events --------------------------------------------------------------------
    *(Row("Publish", f"1 MiB of {kind}", _large(kind), 1500, 32) for kind in TYPES),
    Row(
        "Publish",
        "1,000 events",
        lambda s: [
            events.PublishRequest(
                project=_fresh(s), events=[small_event(f"k{n}", n) for n in range(BATCH)]
            )
        ],
        600,
        32,
    ),
    Row("Publish", "20 events of 16 KiB", _medium, 2300, 32),
    Row("PublishStream", "3 batches of 1,000", _batches, 1800, 32),
    Row(
        "GetEvent",
        "1 MiB",
        lambda s: [events.GetEventRequest(project=P, sequence=s.sequences[-1])],
        100,
        32,
    ),
    Row(
        "ListEvents",
        "a page",
        lambda s: [events.ListEventsRequest(project=P, **_EVERYTHING)],
        100,
        32,
    ),
    Row(
        "ListEvents",
        "globs that pass few",
        lambda s: [
            events.ListEventsRequest(
                project=P,
                filter=event_pb2.EventFilter(data_keys=[f"*x{n}*y" for n in range(30)]),
                **_EVERYTHING,
            )
        ],
        1700,
        32,
    ),
    Row("Replay", "", lambda s: [events.ReplayRequest(project=P)], 400, 32),
    Row(
        "Replay",
        "at a pace",
        lambda s: [events.ReplayRequest(project=P, speed=1_000_000.0)],
        400,
        32,
    ),
    Row(
        "Subscribe",
        "from the beginning",
        lambda s: [events.SubscribeRequest(project=P, edge=event_pb2.EDGE_BEGINNING)],
        700,
        32,
        until=_caught_up(events.SubscribeResponse),
    ),
    # -- matching ------------------------------------------------------------------
    Row(
        "Match",
        "as of the middle: an index of its own",
        lambda s: [matches.MatchRequest(project=P, questions=some_needs(2), as_of=_middle(s))],
        1000,
        32,
    ),
    Row(
        "Match",
        "the first: the index is built",
        lambda s: [matches.MatchRequest(project=P, questions=some_needs(1))],
        3500,
        32,
    ),
    Row(
        "Match",
        "16 questions, 100 answers each",
        lambda s: [
            matches.MatchRequest(
                project=P, questions=some_needs(16), threshold=0.001, max_matches=100
            )
        ],
        4100,
        48,
    ),
    *(
        Row(
            "Match",
            f"a context in {name}",
            lambda s, form=form: [
                matches.MatchRequest(
                    project=P,
                    questions=some_needs(4),
                    threshold=0.001,
                    max_matches=100,
                    max_context_tokens=100_000,
                    context_format=form,
                )
            ],
            10_700,
            32,
        )
        for name, form in _FORMS.items()
    ),
    Row(
        "Explain",
        "1 MiB",
        lambda s: [
            matches.ExplainRequest(project=P, text="shoes", data_key=s.large, threshold=0.001)
        ],
        900,
        32,
    ),
    Row(
        "Backtest",
        "1,000 events",
        lambda s: [
            matches.BacktestRequest(
                project=P, needs=some_needs(2), since=event_pb2.Position(sequence=s.sequences[-2])
            )
        ],
        4300,
        32,
    ),
    Row(
        "GetMatchingStatus",
        "",
        lambda s: [matches.GetMatchingStatusRequest(project=P)],
        100,
        32,
    ),
    # -- agents --------------------------------------------------------------------
    Row(
        "RegisterAgent",
        "32 needs",
        lambda s: [
            agents.RegisterAgentRequest(
                project=P, agent_id=_fresh(s), needs=some_needs(32), threshold=0.05
            )
        ],
        2100,
        32,
    ),
    Row(
        "UpdateAgent",
        "32 needs",
        lambda s: [
            agents.UpdateAgentRequest(
                project=P, agent_id="agent.003", needs=some_needs(32), threshold=0.001
            )
        ],
        3600,
        32,
    ),
    Row("GetAgent", "", lambda s: [agents.GetAgentRequest(project=P, agent_id=AGENT)], 100, 32),
    Row("ListAgents", "", lambda s: [agents.ListAgentsRequest(project=P)], 100, 32),
    Row(
        "Consume",
        "as many deliveries as go into a message",
        lambda s: [consumers.ConsumeRequest(start=_start())],
        1000,
        32,
        until=lambda raw: consumers.ConsumeResponse.FromString(raw).HasField("deliveries"),
    ),
    Row("GetConsumerGroup", "", lambda s: [consumers.GetConsumerGroupRequest(**_OF)], 100, 32),
    Row(
        "SeekConsumerGroup",
        "",
        lambda s: [consumers.SeekConsumerGroupRequest(**_OF, after_sequence="0")],
        100,
        32,
    ),
    Row(
        "ListParked",
        "1,000 deliveries",
        lambda s: [consumers.ListParkedRequest(**_OF, page_size=1_000)],
        1500,
        32,
        before=Scene.park,
    ),
    Row(
        "RedriveParked",
        "1,000 deliveries",
        lambda s: [consumers.RedriveParkedRequest(**_OF)],
        300,
        32,
        before=Scene.park,
    ),
    Row(
        "DropParked",
        "1,000 deliveries",
        lambda s: [consumers.DropParkedRequest(**_OF, all=True)],
        300,
        32,
        before=Scene.park,
    ),
    Row(
        "Listen",
        "1,000 events that all match",
        lambda s: [agents.ListenRequest(project=P, agent_id=AGENT, after_sequence=s.sequences[-2])],
        7000,
        32,
        until=_caught_up(agents.ListenResponse),
    ),
    *(
        Row(
            "Listen",
            f"in {name}",
            lambda s, form=form: [
                agents.ListenRequest(
                    project=P,
                    agent_id="agent.001",
                    after_sequence=s.late,
                    context_format=form,
                )
            ],
            1800,
            32,
            until=_caught_up(agents.ListenResponse),
        )
        for name, form in _FORMS.items()
    ),
    Row(
        "Acknowledge",
        "",
        lambda s: [agents.AcknowledgeRequest(project=P, agent_id=AGENT, sequence=s.sequences[-1])],
        100,
        32,
    ),
    Row(
        "WaitForAgent",
        "",
        lambda s: [
            agents.WaitForAgentRequest(
                project=P, agent_id=AGENT, sequence=s.sequences[-1], timeout_ms=500
            )
        ],
        100,
        32,
    ),
    Row(
        "GetAgentContext",
        "all that it was sent, near misses",
        lambda s: [agents.GetAgentContextRequest(project=P, agent_id=AGENT, near_misses=100)],
        1_000,
        32,
        before=_fewer_matches,
    ),
    Row(
        "ListDeliveries",
        "a page",
        lambda s: [agents.ListDeliveriesRequest(project=P, agent_id=AGENT, page_size=1000)],
        300,
        32,
    ),
    Row(
        "UnregisterAgent",
        "",
        lambda s: [agents.UnregisterAgentRequest(project=P, agent_id="agent.099")],
        100,
        32,
    ),
    Row(
        "RecordFeedback",
        "",
        lambda s: [
            matches.RecordFeedbackRequest(
                project=P,
                agent_id="agent.002",
                sequence=s.sequences[-1],
                useful=True,
                comment="x" * 1000,
            )
        ],
        100,
        32,
    ),
    Row("ExportFeedback", "", lambda s: [matches.ExportFeedbackRequest(project=P)], 1000, 32),
    # -- audit ---------------------------------------------------------------------
    Row(
        "ListRecords",
        "a page",
        lambda s: [audits.ListRecordsRequest(project=P, **_EVERYTHING)],
        600,
        32,
    ),
    *(
        Row(
            "ExportRecords",
            name,
            lambda s, form=form: [audits.ExportRecordsRequest(project=P, format=form)],
            4800,
            112,
        )
        for name, form in {
            "CSV": audits.AUDIT_FORMAT_CSV,
            "JSON Lines": audits.AUDIT_FORMAT_JSON_LINES,
            "Parquet": audits.AUDIT_FORMAT_PARQUET,
        }.items()
    ),
    # -- transfer ------------------------------------------------------------------
    *(
        Row(
            "ExportProject",
            name,
            lambda s, form=form: [
                transfers.ExportProjectRequest(
                    project=P,
                    format=form,
                    compress=form in (LINES, CLOUD),
                    include=[1, 2, 3] if form == NATIVE else [],
                )
            ],
            2500,
            128,
        )
        for name, form in {
            "native": NATIVE,
            "JSON Lines": LINES,
            "CloudEvents": CLOUD,
            "Parquet": PARQUET,
        }.items()
    ),
    *(
        Row(
            "ImportProject",
            name,
            _imported(form, mode),
            33800,
            192,
            before=_load_exports,
            held_ms=IMPORT_HELD_MS,
        )
        for name, form, mode in (
            ("native", NATIVE, transfers.IMPORT_MODE_EXACT),
            ("JSON Lines", LINES, transfers.IMPORT_MODE_EXACT),
            ("CloudEvents", CLOUD, transfers.IMPORT_MODE_REPLAY),
        )
    ),
    # -- access --------------------------------------------------------------------
    Row("WhoAmI", "", lambda s: [access.WhoAmIRequest()], 100, 32),
    _of_access(
        "CheckAccess",
        "32 groups of 32 grants",
        lambda s: access.CheckAccessRequest(
            project=P,
            method="GetState",
            data_key="item/1",
            identity="somebody",
            groups=[f"group:corp:{n}" for n in range(32)],
        ),
        600,
    ),
    _of_access(
        "CreateKey",
        "with a grant",
        lambda s: access.CreateKeyRequest(identity=_fresh(s), grants=_grants(1)),
    ),
    _of_access("ListKeys", "1,000 of 5,000", lambda s: access.ListKeysRequest(page_size=1_000)),
    _of_access("ListKeys", "none of 5,000", lambda s: access.ListKeysRequest(identity="nobody")),
    _of_access("RotateKey", "", lambda s: access.RotateKeyRequest(key_id=s.key_id)),
    _of_access("RevokeKey", "", lambda s: access.RevokeKeyRequest(key_id=s.key_id)),
    _of_access(
        "SetBinding",
        "32 grants of 32 globs",
        lambda s: access.SetBindingRequest(
            binding=access.Binding(identity="bound", grants=_grants(32))
        ),
    ),
    _of_access(
        "ListBindings",
        "1,000 of 5,000",
        lambda s: access.ListBindingsRequest(page_size=1_000),
        600,
    ),
    _of_access(
        "DeleteBinding",
        "",
        lambda s: access.DeleteBindingRequest(identity=f"identity.{s.serial:05}"),
    ),
    _of_access(
        "SetRole",
        "",
        lambda s: access.SetRoleRequest(role=access.Role(name="r", permissions=[1, 2, 3])),
    ),
    _of_access("ListRoles", "", lambda s: access.ListRolesRequest(), 100),
    _of_access("DeleteRole", "", lambda s: access.DeleteRoleRequest(name="unused")),
    _of_access(
        "SetTenant",
        "32 globs beside 500 tenants with as many",
        lambda s: access.SetTenantRequest(
            tenant=access.Tenant(
                name="new", projects=[f"*shared*{n:02}*and-?-{n:02}*of-new" for n in range(32)]
            )
        ),
        4_500,
    ),
    _of_access("ListTenants", "500", lambda s: access.ListTenantsRequest()),
    _of_access("DeleteTenant", "", lambda s: access.DeleteTenantRequest(name="unused")),
    _of_access("GetUsage", "", lambda s: access.GetUsageRequest(tenant="default"), 100),
    _of_access(
        "AssignAgents",
        "all",
        lambda s: agents.AssignAgentsRequest(
            project=P, agent_ids="*", identity=f"listener.{s.serial}", reassign=True
        ),
        3_500,
    ),
    # -- projects ------------------------------------------------------------------
    Row("ListProjects", "", lambda s: [projects.ListProjectsRequest()], 200, 32),
    Row("GetProject", "", lambda s: [projects.GetProjectRequest(project=P)], 100, 32),
    Row("GetStats", "", lambda s: [projects.GetStatsRequest(project=P)], 100, 32),
    *(
        Row(
            "GetActivity",
            name,
            lambda s, by=by: [
                projects.GetActivityRequest(project=P, dimension=by, bucket_seconds=3600, top=100)
            ],
            700,
            32,
        )
        for name, by in {
            "by key": projects.ACTIVITY_DIMENSION_DATA_KEY,
            "by event type": projects.ACTIVITY_DIMENSION_EVENT_TYPE,
            "by need": projects.ACTIVITY_DIMENSION_NEED,
        }.items()
    ),
    Row(
        "GetActivity",
        "by key and minute",
        lambda s: [
            projects.GetActivityRequest(
                project=P,
                dimension=projects.ACTIVITY_DIMENSION_DATA_KEY,
                bucket_seconds=60,
                names=_GLOBS,
            )
        ],
        400,
        32,
    ),
    Row("GetRetention", "", lambda s: [projects.GetRetentionRequest(project=P)], 100, 32),
    Row(
        "SetRetention",
        "",
        lambda s: [projects.SetRetentionRequest(project=P, retention=projects.Retention())],
        100,
        32,
    ),
    Row(
        "SetEncryption",
        "off",
        lambda s: [projects.SetEncryptionRequest(project=P, enabled=False)],
        100,
        32,
    ),
    Row("VerifyProject", "", lambda s: [projects.VerifyProjectRequest(project=P)], 2100, 32),
    Row(
        "EraseData",
        "a subject",
        lambda s: [
            projects.EraseDataRequest(
                project=P, subject="nobody", request_id=_fresh(s), reason="asked"
            )
        ],
        100,
        32,
    ),
    Row(
        "RemoveEvents",
        "none",
        lambda s: [
            projects.RemoveEventsRequest(
                project=P, before=event_pb2.Position(sequence=str(BEGINNING.next())), reason="asked"
            )
        ],
        100,
        32,
    ),
    Row(
        "DeleteProject",
        "",
        lambda s: [
            projects.DeleteProjectRequest(project="small", request_id=_fresh(s), reason="asked")
        ],
        100,
        32,
        before=_small_project,
    ),
]

SLOW = {
    *("ImportProject (CloudEvents)", "ImportProject (JSON Lines)"),
    *("ExportProject (JSON Lines)", "ExportProject (CloudEvents)", "ExportProject (Parquet)"),
    *("ExportRecords (JSON Lines)", "ExportRecords (Parquet)"),
    *("Match (a context in JSON)", "Match (a context in TOON)", "Match (a context in YAML)"),
    "Match (16 questions, 100 answers each)",
    *("Publish (1 MiB of application/toml)", "Publish (1 MiB of application/xml)"),
    "Listen (in YAML)",
}
"""Rows that `make test` leaves out, for a similar one is there or their time; `make test-all` has
them all."""
