"""What a server on the recorded data is asked, by the recorder and by the test.

Everything goes through the generated stubs, over a socket, so nothing here depends on how the
server or the clients are built.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

import grpc
from contex.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    audit_service_pb2,
    audit_service_pb2_grpc,
    event_pb2,
    event_service_pb2,
    event_service_pb2_grpc,
    match_service_pb2,
    match_service_pb2_grpc,
    project_service_pb2,
    project_service_pb2_grpc,
    state_service_pb2,
    state_service_pb2_grpc,
    transfer_service_pb2,
    transfer_service_pb2_grpc,
)
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2, status_pb2

TIMEOUT_S = 30.0
PAGE = 7
"""A page size that divides no answer evenly."""

SETTINGS: dict[str, Any] = {
    # Records must outlive the years until this is read again.
    "audit_retention_days": 0,
    "delivery_retention_days": 3_650,
    # Everything but the import that is finished is within these limits: what is asked does
    # not depend on how far the archiver is.
    "segment_events": 200,
    "store_events": 100,
    "snapshot_events": 100,
    "replay_page_events": 10,
    "match_threshold": 0.4,
}
"""Settings of the server that is asked; the same names as in the environment, in lower case."""

_VOLATILE = {
    "server_time",
    "events_per_second",
    "subscriber_count",
    "listener_count",
    "index_bytes",
}
"""Fields that depend on the time or the process, not on the data."""

MAIN_PROJECTS = ("shop", "people", "records", "held", "models")
QUESTIONS = ("API endpoint, timeout and retries", "return policy and refunds")

Json = Any


class Api:
    """The services on a channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.events: Any = event_service_pb2_grpc.EventServiceStub(channel)
        self.agents: Any = agent_service_pb2_grpc.AgentServiceStub(channel)
        self.matches: Any = match_service_pb2_grpc.MatchServiceStub(channel)
        self.states: Any = state_service_pb2_grpc.StateServiceStub(channel)
        self.audit: Any = audit_service_pb2_grpc.AuditServiceStub(channel)
        self.projects: Any = project_service_pb2_grpc.ProjectServiceStub(channel)
        self.transfers: Any = transfer_service_pb2_grpc.TransferServiceStub(channel)


def sequence(value: str) -> event_pb2.Position:
    return event_pb2.Position(sequence=value)


def at_ms(value: int) -> event_pb2.Position:
    return event_pb2.Position(unix_ms=value)


def plain(message: Any) -> Json:
    """A message as JSON, without what differs from one server to the next."""
    return _stable(MessageToDict(message, preserving_proto_field_name=True))


def _stable(value: Json) -> Json:
    if isinstance(value, dict):
        return {name: _stable(item) for name, item in value.items() if name not in _VOLATILE}
    if isinstance(value, list):
        return [_stable(item) for item in value]
    return value


async def unary(method: Any, request: Any) -> Json:
    """The answer to a call, or its error."""
    try:
        return plain(await method(request, timeout=TIMEOUT_S))
    except grpc.aio.AioRpcError as error:
        return _refusal(error)


def _refusal(error: grpc.aio.AioRpcError) -> Json:
    reason = ""
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    reason = info.reason
    return {"error": error.code().name, "reason": reason}


async def pages(method: Any, request: Any, *, first_token: str = "") -> list[Json]:
    """The pages from a token on to the last, without their tokens."""
    found, token = [], first_token
    while True:
        request.page_token = token
        answer = await method(request, timeout=TIMEOUT_S)
        token = answer.next_page_token
        answer.ClearField("next_page_token")
        found.append(plain(answer))
        if not token:
            return found


async def joined(method: Any, request: Any, field: str, *, first_token: str = "") -> list[Json]:
    """The items of all pages from a token on."""
    found = await pages(method, request, first_token=first_token)
    return [item for page in found for item in page.get(field, [])]


async def streamed(
    method: Any, request: Any, *, until: Callable[[Any], bool] = lambda _: False
) -> Json:
    """A stream of events to its end, or to a message: the events, the kinds of the messages
    and the last cursor. How the events are cut into messages is not part of the answer."""
    call = method(request, timeout=TIMEOUT_S)
    kinds: list[str] = []
    events: list[Json] = []
    cursor = ""
    async for message in call:
        kind = message.WhichOneof("message")
        if kinds[-1:] != [kind]:
            kinds.append(kind)
        if kind == "events":
            events += [plain(item) for item in message.events.events]
        elif kind not in ("caught_up", "checkpoint"):
            events.append(plain(message))
        cursor = message.cursor
        if until(message):
            call.cancel()
            break
    return {"kinds": kinds, "events": events, "cursor": cursor}


def caught_up(message: Any) -> bool:
    return bool(message.WhichOneof("message") == "caught_up")


async def messages(method: Any, request: Any) -> list[Any]:
    return [message async for message in method(request, timeout=TIMEOUT_S)]


async def ask(api: Api, saved: Json, names: tuple[str, ...] = MAIN_PROJECTS) -> Json:
    """Everything that can be asked without changing anything but the audit."""
    answers: dict[str, Json] = {}
    for project in names:
        # The audit first: the questions that follow are recorded in it.
        answers[project] = {"audit": await _audit(api, project)}
    for project in names:
        there = saved["projects"][project]
        answer = answers[project]
        answer["stats"] = await unary(
            api.projects.GetStats, project_service_pb2.GetStatsRequest(project=project)
        )
        answer["retention"] = await unary(
            api.projects.GetRetention, project_service_pb2.GetRetentionRequest(project=project)
        )
        answer["log"] = await streamed(
            api.events.Replay, event_service_pb2.ReplayRequest(project=project)
        )
        answer["backwards"] = _digest(
            await joined(
                api.events.ListEvents,
                event_service_pb2.ListEventsRequest(
                    project=project, order=event_pb2.ORDER_BACKWARDS, page_size=PAGE
                ),
                "events",
            )
        )
        answer["states"] = [await _state(api, project, moment) for moment in there["moments"]]
        answer["state_at_time"] = await unary(
            api.states.GetState,
            state_service_pb2.GetStateRequest(
                project=project,
                as_of=at_ms(there["time"]),
                view=state_service_pb2.STATE_VIEW_KEYS,
                include_deleted=True,
            ),
        )
        answer["diff"] = await joined(
            api.states.DiffStates,
            state_service_pb2.DiffStatesRequest(
                project=project,
                base=sequence(there["moments"][0]),
                target=sequence(there["moments"][-1]),
                view=state_service_pb2.STATE_VIEW_KEYS,
                page_size=PAGE,
            ),
            "changes",
        )
        answer["history"] = {key: await _history(api, project, key) for key in there["keys"]}
        answer["blame"] = {
            key: await unary(
                api.states.GetBlame,
                state_service_pb2.GetBlameRequest(
                    project=project, data_key=key, as_of=sequence(there["moments"][-1])
                ),
            )
            for key in there["keys"]
        }
        answer["export"] = await _export(api, project, there["moments"][-1])
        answer["activity"] = await _activity(api, project, there)
        answer["agents"] = await _agents(api, project, there)
    return answers


async def ask_matching(api: Api, saved: Json, project: str) -> Json:
    """What matches: at the last moment that was recorded, so an answer stays what it was."""
    there = saved["projects"][project]
    as_of = sequence(there["moments"][-1])
    key = there["keys"][0]
    return {
        "match": await unary(
            api.matches.Match,
            match_service_pb2.MatchRequest(
                project=project,
                questions=[agent_service_pb2.Need(text=text) for text in QUESTIONS],
                as_of=as_of,
            ),
        ),
        "explain": await unary(
            api.matches.Explain,
            match_service_pb2.ExplainRequest(
                project=project, text=QUESTIONS[0], data_key=key, as_of=as_of
            ),
        ),
        "backtest": [
            plain(message)
            for message in await messages(
                api.matches.Backtest,
                match_service_pb2.BacktestRequest(
                    project=project,
                    needs=[agent_service_pb2.Need(text=QUESTIONS[0])],
                    since=sequence("0"),
                    until=as_of,
                    summary_only=True,
                ),
            )
            if message.WhichOneof("message") == "summary"
        ],
        "feedback": [
            plain(message)
            for message in await messages(
                api.matches.ExportFeedback,
                match_service_pb2.ExportFeedbackRequest(project=project, until=as_of),
            )
        ],
    }


async def verify(api: Api, project: str) -> Json:
    """What is wrong with a project; vectors are computed when they are needed."""
    found = await messages(
        api.projects.VerifyProject, project_service_pb2.VerifyProjectRequest(project=project)
    )
    findings = [plain(m.finding) for m in found if m.HasField("finding")]
    return {
        "findings": [f for f in findings if f["kind"] != "FINDING_KIND_VECTOR"],
        "events": found[-1].summary.event_count,
    }


async def go_on(api: Api, saved: Json) -> Json:
    """Goes on from every cursor and page token that a client may have kept."""
    tokens = saved["tokens"]
    shop = saved["projects"]["shop"]
    last = sequence(shop["moments"][-1])
    answers: dict[str, Json] = {}
    for name, cursor in tokens["replay"].items():
        backwards = name == "backwards"
        answers[f"replay_{name}"] = await streamed(
            api.events.Replay,
            event_service_pb2.ReplayRequest(
                project="shop",
                cursor=cursor,
                until=None if backwards else last,
                order=event_pb2.ORDER_BACKWARDS if backwards else event_pb2.ORDER_FORWARDS,
            ),
        )
        _shorten(answers[f"replay_{name}"])
    answers["subscribe"] = await streamed(
        api.events.Subscribe,
        event_service_pb2.SubscribeRequest(project="shop", cursor=tokens["subscribe"]),
        until=caught_up,
    )
    _shorten(answers["subscribe"])
    answers["listen"] = await streamed(
        api.agents.Listen,
        agent_service_pb2.ListenRequest(
            project="shop", agent_id="checkout", cursor=tokens["listen"]
        ),
        until=caught_up,
    )
    for kind, (method, request, field) in _paged(api, saved).items():
        answers[kind] = _sequences(
            await joined(method, request, field, first_token=tokens["pages"][kind])
        )
    answers["export"] = await _file(
        api,
        transfer_service_pb2.ExportProjectRequest(
            project="shop",
            format=transfer_service_pb2.EXPORT_FORMAT_JSON_LINES,
            resume_token=tokens["export"],
        ),
    )
    # A token is made for one project and one call.
    answers["foreign"] = await unary(
        api.events.ListEvents,
        event_service_pb2.ListEventsRequest(
            project="people", page_token=tokens["pages"]["events"], page_size=PAGE
        ),
    )
    return answers


def _paged(api: Api, saved: Json) -> dict[str, tuple[Any, Any, str]]:
    """The calls that have pages: method, request, and where the items are."""
    shop = saved["projects"]["shop"]
    first, last = sequence(shop["moments"][0]), sequence(shop["moments"][-1])
    backwards = event_pb2.ORDER_BACKWARDS
    deliveries = agent_service_pb2.ListDeliveriesRequest
    records = audit_service_pb2.ListRecordsRequest
    until = at_ms(saved["until"])
    return {
        "events": (
            api.events.ListEvents,
            event_service_pb2.ListEventsRequest(project="shop", until=last, page_size=PAGE),
            "events",
        ),
        "events_backwards": (
            api.events.ListEvents,
            event_service_pb2.ListEventsRequest(project="shop", order=backwards, page_size=PAGE),
            "events",
        ),
        "agents": (
            api.agents.ListAgents,
            agent_service_pb2.ListAgentsRequest(project="shop", page_size=1),
            "agents",
        ),
        "state": (
            api.states.GetState,
            state_service_pb2.GetStateRequest(project="shop", page_size=4),
            "data",
        ),
        "diff": (
            api.states.DiffStates,
            state_service_pb2.DiffStatesRequest(
                project="shop", base=first, target=last, page_size=4
            ),
            "changes",
        ),
        "history": (
            api.states.GetHistory,
            state_service_pb2.GetHistoryRequest(
                project="shop", data_key=shop["keys"][0], page_size=3
            ),
            "revisions",
        ),
        "deliveries": (
            api.agents.ListDeliveries,
            deliveries(project="shop", agent_id="checkout", until=until, page_size=2),
            "deliveries",
        ),
        "deliveries_backwards": (
            api.agents.ListDeliveries,
            deliveries(
                project="shop", agent_id="checkout", until=until, order=backwards, page_size=2
            ),
            "deliveries",
        ),
        "receivers": (
            api.agents.ListDeliveries,
            deliveries(project="shop", sequence=saved["received"], page_size=1),
            "deliveries",
        ),
        "audit": (
            api.audit.ListRecords,
            records(project="shop", until=until, page_size=PAGE),
            "records",
        ),
        "audit_backwards": (
            api.audit.ListRecords,
            records(project="shop", until=until, order=backwards, page_size=PAGE),
            "records",
        ),
    }


async def first_pages(api: Api, saved: Json) -> dict[str, str]:
    """A token of each kind of page, for `go_on`."""
    tokens = {}
    for kind, (method, request, _) in _paged(api, saved).items():
        tokens[kind] = (await method(request, timeout=TIMEOUT_S)).next_page_token
        assert tokens[kind], kind
    return tokens


async def catch_up(api: Api, project: str, agent_id: str) -> Json:
    """What an agent gets that comes back after a while, from its durable cursor on."""
    return await streamed(
        api.agents.Listen,
        agent_service_pb2.ListenRequest(project=project, agent_id=agent_id),
        until=caught_up,
    )


async def finish_import(api: Api, data: bytes) -> Json:
    """Goes on with the import that was interrupted, and ends it."""
    call = api.transfers.ImportProject(timeout=TIMEOUT_S)
    request = transfer_service_pb2.ImportProjectRequest
    await call.write(request(start=import_start()))
    first = await call.read()
    await call.write(request(data=data[first.resume_offset :]))
    await call.write(request(finish=transfer_service_pb2.ImportFinish()))
    await call.done_writing()
    report = transfer_service_pb2.ImportReport()
    while (answer := await call.read()) is not grpc.aio.EOF:
        report = answer.report
    return {
        "resume_offset": first.resume_offset,
        "events": first.event_count,
        "report": plain(report),
        "export": await _export(api, "copy", report.last_sequence),
        "state": await _state(api, "copy", report.last_sequence),
        "agents": await joined(
            api.agents.ListAgents,
            agent_service_pb2.ListAgentsRequest(project="copy"),
            "agents",
        ),
    }


def import_start() -> transfer_service_pb2.ImportStart:
    return transfer_service_pb2.ImportStart(
        project="copy", format=transfer_service_pb2.EXPORT_FORMAT_NATIVE, import_id="half"
    )


async def finish_reembedding(api: Api, saved: Json) -> Json:
    """Lets the re-embedding that was interrupted end; then what matches under the new model."""
    request = match_service_pb2.GetMatchingStatusRequest(project="models")
    first = await api.matches.GetMatchingStatus(request, timeout=TIMEOUT_S)
    status = first
    async with asyncio.timeout(TIMEOUT_S):
        while status.model != status.configured_model:
            await asyncio.sleep(0.05)
            status = await api.matches.GetMatchingStatus(request, timeout=TIMEOUT_S)
    found = await streamed(
        api.events.Replay,
        event_service_pb2.ReplayRequest(
            project="models", since=sequence(saved["projects"]["models"]["moments"][-1])
        ),
    )
    return {
        "before": first.model,
        "embedded": first.texts_embedded,
        "total": first.texts_total,
        "after": status.model,
        # The event that says so is new, and so is its sequence.
        "told": [[e["event_type"], e["payload"]] for e in found["events"]],
        **await ask_matching(api, saved, "models"),
    }


async def write(api: Api, saved: Json) -> Json:
    """What is written goes on where the old data end."""
    key = saved["projects"]["shop"]["keys"][0]
    receipts = await api.events.Publish(
        event_service_pb2.PublishRequest(
            project="shop", events=[event_service_pb2.NewEvent(data_key=key, payload=b'{"n": 1}')]
        ),
        timeout=TIMEOUT_S,
    )
    (receipt,) = receipts.receipts
    published = await api.events.GetEvent(
        event_service_pb2.GetEventRequest(project="shop", sequence=receipt.sequence),
        timeout=TIMEOUT_S,
    )
    erase = project_service_pb2.EraseDataRequest
    acknowledge = agent_service_pb2.AcknowledgeRequest
    return {
        "revision": receipt.revision,
        "previous": published.event.previous_sequence,
        "erased_again": await unary(
            api.projects.EraseData,
            erase(project="people", subject="anna", request_id="erase-anna", reason="asked"),
        ),
        "erased_again_by_key": await unary(
            api.projects.EraseData,
            erase(project="records", data_key="record/3", request_id="erase-3", reason="asked"),
        ),
        "held": await unary(
            api.projects.EraseData,
            erase(project="held", data_key="contract/1", request_id="e", reason="asked"),
        ),
        "acknowledged": await unary(
            api.agents.Acknowledge,
            acknowledge(project="shop", agent_id="checkout", cursor=saved["tokens"]["listen"]),
        ),
        "acknowledged_back": await unary(
            api.agents.Acknowledge,
            acknowledge(project="shop", agent_id="checkout", sequence="1-0"),
        ),
        "verified": {name: await verify(api, name) for name in (*MAIN_PROJECTS, "copy")},
    }


async def seal(api: Api, project: str) -> Json:
    """Whether an event that names a subject can be published and read."""
    return await unary(
        api.events.Publish,
        event_service_pb2.PublishRequest(
            project=project,
            events=[
                event_service_pb2.NewEvent(
                    data_key="sealed/new", payload=b"{}", metadata={"subject": "new"}
                )
            ],
        ),
    )


async def _audit(api: Api, project: str) -> Json:
    request = audit_service_pb2.ListRecordsRequest(project=project, page_size=1_000)
    return await joined(api.audit.ListRecords, request, "records")


async def _state(api: Api, project: str, moment: str) -> Json:
    return await pages(
        api.states.GetState,
        state_service_pb2.GetStateRequest(
            project=project,
            as_of=sequence(moment),
            view=state_service_pb2.STATE_VIEW_KEYS,
            include_deleted=True,
            page_size=PAGE,
        ),
    )


async def _history(api: Api, project: str, key: str) -> Json:
    request = state_service_pb2.GetHistoryRequest(
        project=project, data_key=key, omit_payloads=True, page_size=PAGE
    )
    return [
        {"sequence": item["event"]["sequence"], "patch": item.get("patch")}
        for item in await joined(api.states.GetHistory, request, "revisions")
    ]


async def _export(api: Api, project: str, until: str) -> Json:
    return await _file(
        api,
        transfer_service_pb2.ExportProjectRequest(
            project=project,
            format=transfer_service_pb2.EXPORT_FORMAT_JSON_LINES,
            until=sequence(until),
        ),
    )


async def _file(api: Api, request: transfer_service_pb2.ExportProjectRequest) -> Json:
    """An export as JSON lines: its events, whatever the order of their fields."""
    found = await messages(api.transfers.ExportProject, request)
    lines = b"".join(message.data for message in found).splitlines()
    # The first holds the time of the export, the last the digest over the bytes of them all.
    events = lines[:-1] if request.resume_token else lines[1:-1]
    summary = plain(found[-1].summary)
    del summary["digest"]
    return {"events": _digest([json.loads(line) for line in events]), "summary": summary}


async def _activity(api: Api, project: str, there: Json) -> Json:
    dimensions = project_service_pb2.ActivityDimension
    return {
        name: await unary(
            api.projects.GetActivity,
            project_service_pb2.GetActivityRequest(
                project=project,
                dimension=dimensions.Value(f"ACTIVITY_DIMENSION_{name}"),
                since=sequence(there["moments"][0]),
                until=sequence(there["moments"][-1]),
                # Shorter ones are kept for some days only.
                bucket_seconds=3_600,
            ),
        )
        for name in ("TOTAL", "DATA_KEY", "EVENT_TYPE", "PUBLISHER", "NEED")
    }


async def _agents(api: Api, project: str, there: Json) -> Json:
    answers: dict[str, Json] = {
        "list": await joined(
            api.agents.ListAgents,
            agent_service_pb2.ListAgentsRequest(project=project),
            "agents",
        )
    }
    for agent_id, time_ms in there["agents"].items():
        deliveries = await joined(
            api.agents.ListDeliveries,
            agent_service_pb2.ListDeliveriesRequest(
                project=project, agent_id=agent_id, page_size=PAGE
            ),
            "deliveries",
        )
        contexts = [
            await unary(
                api.agents.GetAgentContext,
                agent_service_pb2.GetAgentContextRequest(
                    project=project,
                    agent_id=agent_id,
                    as_of=as_of,
                    omit_payloads=True,
                    near_misses=2,
                ),
            )
            for as_of in (sequence(there["moments"][1]), at_ms(time_ms))
        ]
        answers[agent_id] = {"deliveries": deliveries, "contexts": contexts}
    return answers


def _digest(items: list[Json]) -> Json:
    """Many events in few bytes: their number, and a digest of all that they say."""
    text = json.dumps(items, sort_keys=True)
    return {"count": len(items), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _sequences(items: list[Json]) -> list[Json]:
    """What names each item."""
    names = ("record_id", "agent_id", "sequence", "data_key")
    found = [item.get("event", item) for item in items]
    return [{name: item[name] for name in names if name in item} for item in found]


def _shorten(answer: Json) -> None:
    answer["events"] = [item["sequence"] for item in answer["events"]]


async def ask_main(api: Api, saved: Json, half: bytes) -> Json:
    """All questions about the main data directory, those that write last."""
    answers: Json = {"projects": await ask(api, saved)}
    answers["matching"] = await ask_matching(api, saved, "shop")
    answers["go_on"] = await go_on(api, saved)
    answers["behind"] = {
        agent_id: await catch_up(api, "shop", agent_id)
        for agent_id in ("checkout", "docs", "support")
    }
    answers["import"] = await finish_import(api, half)
    answers["writes"] = await write(api, saved)
    return answers


async def ask_plain(api: Api, saved: Json, half: bytes) -> Json:
    """All questions about the store without archive and master key."""
    answers: Json = {"projects": await ask(api, saved, ("plain",))}
    answers["matching"] = await ask_matching(api, saved, "plain")
    answers["behind"] = await catch_up(api, "plain", "reader")
    answers["import"] = await finish_import(api, half)
    answers["sealed"] = await seal(api, "plain")
    answers["verified"] = await verify(api, "plain")
    return answers


def differences(recorded: Json, answered: Json, place: str = "") -> list[str]:
    """Where two answers differ. Scores are sums of floats, which processors of other kinds add
    up in another order; everything else is compared exactly."""
    if isinstance(recorded, float) and isinstance(answered, int | float):
        if math.isclose(recorded, answered, rel_tol=_SCORE_TOLERANCE, abs_tol=_SCORE_TOLERANCE):
            return []
    elif isinstance(recorded, dict) and isinstance(answered, dict):
        if answered == _ERASED_PATCH and recorded.keys() <= {"unified_diff"}:
            return []
        return [
            line
            for name in sorted(recorded.keys() | (answered.keys() - ADDED))
            for line in differences(recorded.get(name), answered.get(name), f"{place}/{name}")
        ]
    elif isinstance(recorded, list) and isinstance(answered, list):
        if len(recorded) == len(answered):
            pairs = enumerate(zip(recorded, answered, strict=True))
            return [line for n, pair in pairs for line in differences(*pair, f"{place}/{n}")]
    elif recorded == answered or _is_same_position(recorded, answered):
        return []
    return [f"{place}: {str(recorded)[:200]} was recorded, {str(answered)[:200]} answered"]


def _is_same_position(recorded: Json, answered: Json) -> bool:
    """Whether two tokens are of the same kind and position; the recorded one has no proof."""
    if not (isinstance(recorded, str) and isinstance(answered, str) and len(recorded) == 28):
        return False
    try:
        old, new = (base64.urlsafe_b64decode(t + "=" * (-len(t) % 4)) for t in (recorded, answered))
    except ValueError:
        return False
    return len(new) == 29 and (old[0], old[5:]) == (new[0], new[5:21])


_SCORE_TOLERANCE = 1e-3
ADDED = frozenset(
    {
        *("keep_revisions", "truncated", "kind", "need_id", "id", "change", "muted_kinds"),
        *("exclude_own", "last_contact_time", "progress"),
        *("stale", "stale_reason", "pending_kind"),
    }
)
"""Fields of answers that came after the recording, or that say more: a blame that ends at an erased
payload is truncated."""
_ERASED_PATCH = {"omitted": "PATCH_OMITTED_ERASED"}
"""What stands where the recorded version told the difference from an empty payload."""
_RENAMED = {"match": "need_match", "need_specs": "needs", "final": "last"}


def in_names_of_now(recorded: Json) -> Json:
    """A recorded answer with the names that its fields have now.

    A need was a text in `needs`, and complete in `need_specs`.
    """
    if isinstance(recorded, list):
        return [in_names_of_now(item) for item in recorded]
    if not isinstance(recorded, dict):
        return recorded
    if "need_specs" in recorded:
        recorded = {name: value for name, value in recorded.items() if name != "needs"}
    return {
        name if name == "match" and "parts" not in item else _RENAMED.get(name, name): (
            in_names_of_now(item)
        )
        for name, item in recorded.items()
    }
