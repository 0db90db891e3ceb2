"""A project of which a caller sees a part, and what it may ask for.

Whatever is hidden is called "canary".
"""

from __future__ import annotations

import base64
import io
import itertools
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

import contex.v1
import grpc
import pyarrow.parquet as pq
import zstandard
from contex.v1 import access_pb2, event_pb2
from contex.v1 import agent_service_pb2 as agents_pb
from contex.v1 import audit_service_pb2 as audit_pb
from contex.v1 import consumer_pb2 as groups_pb
from contex.v1 import event_service_pb2 as events_pb
from contex.v1 import match_service_pb2 as match_pb
from contex.v1 import project_service_pb2 as projects_pb
from contex.v1 import server_service_pb2 as server_pb
from contex.v1 import state_service_pb2 as state_pb
from contex.v1 import transfer_service_pb2 as transfer_pb
from contex_server.edge.incoming import Incoming, Rest
from contex_server.kernel import event_codec
from contex_server.kernel.errors import permission_denied
from contex_server.kernel.model import Agent, Sequence
from contex_server.kernel.scope import EVERYTHING, Scope
from contex_server.server import Server
from contex_server.transfer.native import NativeReader
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.integration.groups.worker import Worker
from tests.integration.support import DEADLINE_S, Api, P, event, own

CANARY = b"canary"
SEEN, HIDDEN, ABSENT = "public.apple", "secret.canary", "secret.absent"
ITS_OWN, COVERED, DOOMED = "guest-own", "narrow-one", "guest-doomed"
HIDDEN_AGENT, ABSENT_AGENT = "agent-canary", "agent-absent"
SCOPES = {
    "guest": Scope(frozenset({"public.*"})),
    "blind": Scope(frozenset()),
    "narrow": Scope(frozenset({"public.a*"})),
}
_OWNERS = ("guest", "blind", "narrow")


async def access(call: Incoming, rest: Rest) -> Any:
    """Link: what one that knows of rights would do for these callers."""
    call.scope = SCOPES.get(call.origin.identity, EVERYTHING)
    if not call.scope.is_open and reach_of(METHODS[call.method]) == access_pb2.REACH_PROJECT:
        raise permission_denied(call.method, call.project, call.origin.identity)
    return await rest(call)


def standing(agent: Agent) -> tuple[str, Scope]:
    """Whose agents are, by the beginnings of their names; others are nobody's."""
    owner = agent.agent_id.partition("-")[0]
    return (owner, SCOPES[owner]) if owner in _OWNERS else ("", EVERYTHING)


def reach_of(method: MethodDescriptor) -> int:
    """What a method is about."""
    return int(method.GetOptions().Extensions[access_pb2.access].reach)


def _methods() -> Iterator[MethodDescriptor]:
    for module in pkgutil.iter_modules(contex.v1.__path__):
        if module.name.endswith("_service_pb2"):
            file = import_module(f"contex.v1.{module.name}").DESCRIPTOR
            for service in file.services_by_name.values():
                yield from service.methods


METHODS = {method.name: method for method in _methods()}
"""Every method of the API."""
_OF_NO_PROJECT = {"WhoAmI", "ListRoles"}
"""About the caller, and about the deployment."""
OPEN_TO_PARTS = [
    name
    for name, method in METHODS.items()
    if reach_of(method) not in (access_pb2.REACH_PROJECT, access_pb2.REACH_DEPLOYMENT)
    and name not in _OF_NO_PROJECT
]
"""Those that a caller may call who sees a part of a project."""


@dataclass(frozen=True)
class Answer:
    """All that a client sees of a call.

    Attributes:
        messages: What it was answered, serialised.
        error: Status, message and trailers, as far as they are not of the answer.
    """

    messages: list[bytes]
    error: bytes = b""

    @property
    def raw(self) -> bytes:
        """Every byte."""
        return b"\n".join([*self.messages, self.error])


@dataclass
class Scene:
    """A server with a project that has much to hide."""

    server: Server
    api: Api
    hidden: list[str] = field(default_factory=list)
    """The sequences of hidden events."""
    seen: list[str] = field(default_factory=list)
    own_event: str = ""

    @cached_property
    def proofs(self) -> set[bytes]:
        """What proves hidden events."""
        return set()

    async def call(self, identity: str, name: str, request: Message, most: int = 0) -> Answer:
        """Calls a method; reads `most` answers of a stream, or until it ends or has caught up."""
        method = METHODS[name]
        path = f"/{method.containing_service.full_name}/{name}"
        headers = (("contex-identity", identity),)
        options: dict[str, Any] = {"metadata": headers, "timeout": DEADLINE_S}
        raw, answers = request.SerializeToString(), list[bytes]()
        kind = GetMessageClass(method.output_type)
        try:
            if not method.server_streaming:
                return Answer([await self.api.channel.unary_unary(path)(raw, **options)])
            if method.client_streaming:
                call: Any = self.api.channel.stream_stream(path)(**options)
                await call.write(raw)
                if name != "Consume":
                    await call.done_writing()
            else:
                call = self.api.channel.unary_stream(path)(raw, **options)
            while (answer := await call.read()) is not grpc.aio.EOF:
                answers.append(answer)
                message = kind.FromString(answer)
                done = "message" in method.output_type.oneofs_by_name and message.WhichOneof(
                    "message"
                ) in ("caught_up", "idle")
                if done or len(answers) == most:
                    call.cancel()
                    return Answer(answers)
        except grpc.aio.AioRpcError as error:
            trailers = sorted((k, v) for k, v in error.trailing_metadata() or ())
            return Answer(answers, repr((error.code(), error.details(), trailers)).encode())
        return Answer(answers)

    async def every_page(self, identity: str, name: str, request: Any) -> list[Answer]:
        """The answers of a method; of one with pages all of them."""
        answers = [await self.call(identity, name, request)]
        kind = GetMessageClass(METHODS[name].output_type)
        while "next_page_token" in kind.DESCRIPTOR.fields_by_name and not answers[-1].error:
            request.page_token = kind.FromString(answers[-1].messages[0]).next_page_token
            if not request.page_token or len(answers) == 40:
                break
            answers.append(await self.call(identity, name, request))
            assert not answers[-1].error, (name, request, answers[-1].error)
        return answers


async def fill(scene: Scene) -> None:
    """Publishes, registers, consumes, judges: in each way some that is hidden."""
    api = scene.api
    loud = {
        "publisher": "publisher-canary",
        "metadata": {"about": "metadata-canary"},
    }
    for n in range(4):
        secret = {"payload": b'"canary apples %d"' % n, "description": "canary apples"}
        scene.hidden += await _publish(api, event(HIDDEN, **secret), **loud)
        scene.seen += await _publish(
            api, event(SEEN, b'"apples %d"' % n, description="apples"), publisher="alice"
        )
    scene.hidden += await _publish(api, event("secret.canary.gone", b'"canary"'), **loud)
    deletion = events_pb.NewEvent(data_key="secret.canary.gone", event_type="data_deleted")
    with suppress(grpc.aio.AioRpcError):
        scene.hidden += await _publish(api, deletion, **loud)
    scene.hidden += await _publish(api, own("type.canary", payload=b'"canary"'), **loud)
    needs = ["apples", "canary apples"]
    await _register(api, "identity-canary", HIDDEN_AGENT, needs)
    for owner, agent_id in (("guest", ITS_OWN), ("narrow", COVERED), ("guest", DOOMED)):
        await _register(api, owner, agent_id, ["apples"])
        await _listen(api, agent_id)
    await _listen(api, HIDDEN_AGENT)
    async with Worker(api, "consumer", ITS_OWN) as worker:
        first = await worker.until(lambda: _of_both(worker))
        for each in first:
            key = each.matched.event.data_key
            reason = "reason-canary" if key == HIDDEN else "reason"
            await worker.park(each.delivery_id, reason=reason)
        await worker.finish()
    for agent_id, sequence in (
        (HIDDEN_AGENT, scene.seen[0]),
        (HIDDEN_AGENT, scene.hidden[0]),
        (ITS_OWN, scene.hidden[1]),
    ):
        await _judge(api, agent_id, sequence, "comment-canary")
    await _judge(api, ITS_OWN, scene.seen[1], "comment")
    log = scene.server.rooms.storage.log
    for each in await api.log():
        if each.data_key != SEEN:
            scene.hidden.append(each.sequence)
    for entry in await log.get(P, [Sequence.parse(sequence) for sequence in scene.hidden]):
        if entry is not None:
            scene.proofs.add(event_codec.proof(entry))
    refused = events_pb.PublishRequest(project=P, request_id="request-canary", events=[])
    await scene.call("identity-canary", "Publish", refused)


def _of_both(worker: Worker) -> list[groups_pb.ConsumerDelivery]:
    by_key = {each.matched.event.data_key: each for each in worker.deliveries}
    return [by_key[SEEN], by_key[HIDDEN]] if {SEEN, HIDDEN} <= by_key.keys() else []


async def _listen(api: Api, agent_id: str) -> None:
    """Lets an agent be sent what it gets."""
    stream = await api.listen(agent_id).until(lambda each: {SEEN, HIDDEN} <= set(each.keys))
    await stream.cancel()


async def _publish(api: Api, *events: Any, **fields: Any) -> list[str]:
    metadata = fields.pop("metadata", {})
    for each in events:
        each.metadata.update(metadata)
    return await api.publish(*events, **fields)


async def _register(api: Api, identity: str, agent_id: str, needs: list[str]) -> None:
    request = agents_pb.RegisterAgentRequest(
        project=P,
        agent_id=agent_id,
        needs=[agents_pb.Need(text=text) for text in needs],
        last_seen_sequence="0",
    )
    headers = (("contex-identity", identity),)
    if identity in SCOPES:
        headers = ()
    await api.agents.RegisterAgent(request, metadata=headers, timeout=DEADLINE_S)


async def _judge(api: Api, agent_id: str, sequence: str, comment: str) -> None:
    request = match_pb.RecordFeedbackRequest(
        project=P, agent_id=agent_id, sequence=sequence, useful=True, comment=comment
    )
    await api.matches.RecordFeedback(request, timeout=DEADLINE_S)


def _position(sequence: str) -> event_pb2.Position:
    return event_pb2.Position(sequence=sequence)


_ORDERS = (event_pb2.ORDER_FORWARDS, event_pb2.ORDER_BACKWARDS)
_FILTERS = (
    event_pb2.EventFilter(),
    event_pb2.EventFilter(data_keys=[HIDDEN]),
    event_pb2.EventFilter(data_keys=["*"]),
    event_pb2.EventFilter(publishers=["publisher-canary"]),
    event_pb2.EventFilter(event_types=["type.canary", "agent_registered", "match_feedback"]),
    event_pb2.EventFilter(metadata={"about": "metadata-canary"}),
    event_pb2.EventFilter(exclude_service_events=True),
)
_SIZES = (1, 3, 100)
_NEEDS = (
    [agents_pb.Need(text="apples")],
    [agents_pb.Need(text="canary apples", threshold=0.01)],
    [agents_pb.Need(filter=event_pb2.EventFilter())],
    [agents_pb.Need(filter=event_pb2.EventFilter(data_keys=[HIDDEN]))],
)
_AGENTS = (ITS_OWN, COVERED, HIDDEN_AGENT, ABSENT_AGENT)
_KEYS = (SEEN, HIDDEN, ABSENT)


def _of(kind: Any, **choices: Any) -> Iterator[Any]:
    """A request for each combination of fields."""
    for values in itertools.product(*choices.values()):
        fields = dict(zip(choices, values, strict=True))
        yield kind(project=P, **{k: v for k, v in fields.items() if v is not None})


def _moments(scene: Scene) -> list[Any]:
    return [None, *map(_position, (scene.hidden[1], scene.seen[-1]))]


def _sequences(scene: Scene) -> list[str]:
    """One of each kind of event, and one that there is not."""
    return [*scene.hidden[:1], *scene.hidden[-4:], scene.seen[0], "1-0"]


def _agent_rows(kind: Any, **fields: Any) -> Callable[[Scene], Iterator[Any]]:
    return lambda scene: _of(kind, agent_id=_AGENTS, **{k: [v] for k, v in fields.items()})


def _get_events(scene: Scene) -> Iterator[Any]:
    return _of(events_pb.GetEventRequest, sequence=_sequences(scene))


def _explanations(scene: Scene) -> Iterator[Any]:
    kind = match_pb.ExplainRequest
    needs = [match_pb.AgentNeed(agent_id=agent_id, need_index=0) for agent_id in _AGENTS]
    worded = match_pb.AgentNeed(agent_id=ITS_OWN, need_index=7)
    for datum in ({"data_key": _KEYS}, {"sequence": _sequences(scene)}):
        yield from _of(kind, text=["apples"], as_of=_moments(scene)[:2], **datum)
        yield from _of(kind, agent_need=[*needs, worded], **datum)


def _states(kind: Any) -> Callable[[Scene], Iterator[Any]]:
    def rows(scene: Scene) -> Iterator[Any]:
        yield from _of(kind, as_of=_moments(scene), include_deleted=[False, True])
        yield from _of(kind, data_keys=[[HIDDEN], ["*"]], view=[state_pb.STATE_VIEW_KEYS])
        yield from _of(kind, prefix=["secret", "pub"])
        if kind is state_pb.GetStateRequest:
            yield from _of(kind, page_size=_SIZES, include_deleted=[True])

    return rows


def _keyed(kind: Any, **fields: Any) -> Callable[[Scene], Iterator[Any]]:
    return lambda scene: _of(kind, data_key=_KEYS, as_of=_moments(scene), **fields)


def _audits(kind: Any, **fields: Any) -> Callable[[Scene], Iterator[Any]]:
    filters = [
        None,
        audit_pb.AuditFilter(actors=["publisher-canary", "identity-canary"]),
        audit_pb.AuditFilter(agent_ids=[HIDDEN_AGENT]),
        audit_pb.AuditFilter(agent_ids=[HIDDEN_AGENT, ITS_OWN]),
        audit_pb.AuditFilter(data_keys=[HIDDEN]),
        audit_pb.AuditFilter(request_id="request-canary"),
        *(
            audit_pb.AuditFilter(actions=[value])
            for value in audit_pb.AuditAction.values()
            if value
        ),
    ]
    return lambda scene: _of(kind, filter=filters, **fields)


def _exports(scene: Scene) -> Iterator[Any]:
    kind = transfer_pb.ExportProjectRequest
    parts = [[], [*filter(None, transfer_pb.ExportPart.values())]]
    native = transfer_pb.EXPORT_FORMAT_NATIVE
    yield from _of(kind, format=[native], include=parts, filter=_FILTERS[:3])
    lines = (transfer_pb.EXPORT_FORMAT_JSON_LINES, transfer_pb.EXPORT_FORMAT_CLOUD_EVENTS)
    yield from _of(kind, format=lines, compress=[False, True])
    yield from _of(kind, format=[transfer_pb.EXPORT_FORMAT_PARQUET])
    yield from _of(kind, format=[lines[0]], since=[_position(scene.hidden[0])])


def _publishes(scene: Scene) -> Iterator[Any]:
    for key in (HIDDEN, ABSENT, ""):
        for revision in (None, 0, 1, 99):
            new = events_pb.NewEvent(
                data_key=key,
                payload=b"1",
                event_type="" if key else "x",
                expected_revision=revision,
            )
            yield events_pb.PublishRequest(project=P, events=[new])
    conflict = events_pb.NewEvent(data_key=SEEN, payload=b"1", expected_revision=99)
    yield events_pb.PublishRequest(project=P, events=[conflict])


def _streamed_publishes(scene: Scene) -> Iterator[Any]:
    return (events_pb.PublishStreamRequest(publish=each) for each in _publishes(scene))


def _deliveries(scene: Scene) -> Iterator[Any]:
    kind = agents_pb.ListDeliveriesRequest
    yield from _of(kind, agent_id=_AGENTS, order=_ORDERS, page_size=_SIZES)
    yield from _of(kind, sequence=_sequences(scene), page_size=[1, 100])


def _consumes(_scene: Scene) -> Iterator[Any]:
    for agent_id in _AGENTS:
        start = groups_pb.ConsumeStart(project=P, agent_id=agent_id, consumer="g")
        yield groups_pb.ConsumeRequest(start=start)


def _parked(kind: Any) -> Callable[[Scene], Iterator[Any]]:
    def rows(_scene: Scene) -> Iterator[Any]:
        yield from _of(kind, agent_id=_AGENTS[1:], parked_ids=[["1-0"]])
        yield kind(project=P, agent_id=ITS_OWN, parked_ids=["1-0"])

    return rows


ROWS: dict[str, Callable[[Scene], Iterator[Any]]] = {
    "GetServerInfo": lambda _: iter([server_pb.GetServerInfoRequest()]),
    "ListProjects": lambda _: iter(
        projects_pb.ListProjectsRequest(page_size=size, name=name)
        for size in _SIZES
        for name in ("", "*")
    ),
    "GetProject": lambda _: iter([projects_pb.GetProjectRequest(project=P)]),
    "GetEvent": _get_events,
    "ListEvents": lambda scene: itertools.chain(
        _of(events_pb.ListEventsRequest, filter=_FILTERS, order=_ORDERS, page_size=[100]),
        _of(events_pb.ListEventsRequest, filter=_FILTERS[:2], order=_ORDERS, page_size=[1, 3]),
        _of(events_pb.ListEventsRequest, since=_moments(scene)[1:]),
    ),
    "Replay": lambda scene: itertools.chain(
        _of(events_pb.ReplayRequest, filter=_FILTERS, order=_ORDERS),
        _of(events_pb.ReplayRequest, speed=[1e9], since=_moments(scene)[1:]),
    ),
    "Subscribe": lambda scene: _of(
        events_pb.SubscribeRequest, filter=_FILTERS, after_sequence=["0", scene.hidden[0]]
    ),
    "Publish": _publishes,
    "PublishStream": _streamed_publishes,
    "Match": lambda scene: itertools.chain(
        _of(match_pb.MatchRequest, questions=_NEEDS, as_of=_moments(scene)),
        _of(match_pb.MatchRequest, questions=_NEEDS[:2], data_keys=[[HIDDEN], ["*"]]),
        _of(match_pb.MatchRequest, questions=_NEEDS[:2], max_context_tokens=[1, 1_000]),
        _of(
            match_pb.MatchRequest,
            questions=_NEEDS[:1],
            context_format=[*filter(None, event_pb2.ContextFormat.values())],
        ),
    ),
    "Explain": _explanations,
    "Backtest": lambda scene: itertools.chain(
        _of(match_pb.BacktestRequest, needs=_NEEDS, summary_only=[False, True]),
        _of(match_pb.BacktestRequest, needs=_NEEDS[:1], since=_moments(scene)[1:]),
    ),
    "RecordFeedback": lambda scene: itertools.chain(
        _of(
            match_pb.RecordFeedbackRequest,
            agent_id=[HIDDEN_AGENT, ABSENT_AGENT],
            sequence=_sequences(scene)[:2],
        ),
        _of(
            match_pb.RecordFeedbackRequest,
            agent_id=[ITS_OWN],
            sequence=_sequences(scene)[:2],
            need=["canary", ""],
        ),
    ),
    "ExportFeedback": lambda scene: _of(match_pb.ExportFeedbackRequest, since=_moments(scene)),
    "GetState": _states(state_pb.GetStateRequest),
    "StreamState": _states(state_pb.StreamStateRequest),
    "DiffStates": lambda scene: _of(
        state_pb.DiffStatesRequest,
        base=[_position("0"), *_moments(scene)[1:]],
        target=_moments(scene)[:1],
        page_size=[1, 100],
        view=state_pb.StateView.values(),
    ),
    "GetHistory": _keyed(state_pb.GetHistoryRequest, page_size=[1, 100]),
    "GetRevision": lambda _: _of(state_pb.GetRevisionRequest, data_key=_KEYS, revision=[1, 2, 99]),
    "GetBlame": _keyed(state_pb.GetBlameRequest),
    "ListRecords": _audits(audit_pb.ListRecordsRequest, order=_ORDERS, page_size=[7]),
    "ExportRecords": _audits(
        audit_pb.ExportRecordsRequest, format=[*filter(None, audit_pb.AuditFormat.values())]
    ),
    "ExportProject": _exports,
    "ListAgents": lambda _: _of(agents_pb.ListAgentsRequest, page_size=_SIZES),
    "GetAgent": _agent_rows(agents_pb.GetAgentRequest),
    "GetAgentContext": lambda scene: _of(
        agents_pb.GetAgentContextRequest,
        agent_id=_AGENTS,
        as_of=_moments(scene),
        near_misses=[0, 50],
    ),
    "ListDeliveries": _deliveries,
    "Listen": lambda _: _of(
        agents_pb.ListenRequest,
        agent_id=_AGENTS,
        after_sequence=["0"],
        conflate=[False, True],
        context_format=event_pb2.ContextFormat.values(),
    ),
    "WaitForAgent": lambda scene: _of(
        agents_pb.WaitForAgentRequest,
        agent_id=_AGENTS,
        sequence=[scene.hidden[0], "9999999999999-0"],
        timeout_ms=[0],
    ),
    "ListParked": lambda _: _of(groups_pb.ListParkedRequest, agent_id=_AGENTS, page_size=[1, 100]),
    "GetConsumerGroup": _agent_rows(groups_pb.GetConsumerGroupRequest),
    "RegisterAgent": lambda _: iter(
        agents_pb.RegisterAgentRequest(project=P, agent_id=agent_id, needs=needs)
        for agent_id in (HIDDEN_AGENT, DOOMED)
        for needs in _NEEDS[:1]
    ),
    "UpdateAgent": lambda _: iter(
        agents_pb.UpdateAgentRequest(project=P, agent_id=agent_id, needs=_NEEDS[1])
        for agent_id in (HIDDEN_AGENT, ABSENT_AGENT)
    ),
    "Acknowledge": _agent_rows(agents_pb.AcknowledgeRequest, sequence="0"),
    "Consume": _consumes,
    "RedriveParked": _parked(groups_pb.RedriveParkedRequest),
    "DropParked": _parked(groups_pb.DropParkedRequest),
    "SeekConsumerGroup": lambda _: _of(
        groups_pb.SeekConsumerGroupRequest, agent_id=[DOOMED, *_AGENTS[2:]], after_sequence=["0"]
    ),
    "UnregisterAgent": lambda _: _of(
        agents_pb.UnregisterAgentRequest, agent_id=[HIDDEN_AGENT, ABSENT_AGENT]
    ),
}
"""What a caller asks for by each method. What changes something comes last."""

PAGED = sorted(
    name
    for name in ROWS
    if "page_token" in METHODS[name].input_type.fields_by_name and name != "ListProjects"
)
"""Those that answer in pages."""


def readable(name: str, request: Any, answers: list[bytes]) -> bytes:
    """What can be read in the files that a method sends."""
    if name == "ExportProject":
        parts = [transfer_pb.ExportProjectResponse.FromString(each) for each in answers]
        file = b"".join(part.data for part in parts)
        tokens = b"".join(decoded(part.resume_token) for part in parts)
        return tokens + _project_file(request, file)
    if name == "ExportRecords":
        file = b"".join(audit_pb.ExportRecordsResponse.FromString(each).data for each in answers)
        return _parquet(file) if request.format == audit_pb.AUDIT_FORMAT_PARQUET else file
    return b""


def _project_file(request: Any, file: bytes) -> bytes:
    match request.format:
        case transfer_pb.EXPORT_FORMAT_PARQUET:
            return _parquet(file)
        case transfer_pb.EXPORT_FORMAT_NATIVE:
            return b"\n".join(repr(item).encode() for item in NativeReader().feed(file))
    if request.compress:
        with zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as reader:
            return reader.read()
    return file


def _parquet(file: bytes) -> bytes:
    return repr(pq.read_table(io.BytesIO(file)).to_pylist()).encode() if file else b""


def decoded(token: str) -> bytes:
    """The bytes of a cursor or page token."""
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))


def tokens_of(message: Message) -> Iterator[str]:
    """The cursors and page tokens in an answer."""
    for descriptor, value in message.ListFields():
        if descriptor.name in ("cursor", "next_page_token", "resume_token"):
            yield value
