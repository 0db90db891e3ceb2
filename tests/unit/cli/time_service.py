"""The services about time with canned answers, to run commands against over a real socket."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
from contex.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    audit_service_pb2,
    audit_service_pb2_grpc,
    event_pb2,
    project_service_pb2,
    project_service_pb2_grpc,
    state_service_pb2,
    state_service_pb2_grpc,
)

from tests.unit.cli.service import NEED, matched

START_MS = 1_764_000_000_000  # 2025-11-24T16:00:00Z
PATCH = '[{"op":"replace","path":"/timeout","value":60},{"op":"remove","path":"/retries"}]'
DIFF = "--- r1\n+++ r2\n@@ -1,2 +1,2 @@\n same\n-old  line\n+new\x1b[2J line\n"


def moment(sequence: str = "1764000000123-0", unix_ms: int = START_MS + 123) -> event_pb2.Moment:
    message = event_pb2.Moment(sequence=sequence)
    message.time.FromMilliseconds(unix_ms)
    return message


def asked(position: event_pb2.Position) -> event_pb2.Moment:
    """The moment that a request means."""
    if position.HasField("time"):
        return moment(unix_ms=position.time.ToMilliseconds())
    return moment(unix_ms=position.unix_ms or START_MS + 123)


def event(key: str, revision: int = 2, payload: bytes = b'{"timeout":60}') -> event_pb2.Event:
    return event_pb2.Event(
        sequence=f"{START_MS + revision}-0",
        event_type="data_published" if payload else "data_deleted",
        data_key=key,
        payload=payload,
        description="API endpoint" if payload else "",
        publisher="ops",
        revision=revision,
    )


def datum(key: str, revision: int = 2, payload: bytes = b'{"timeout":60}') -> Any:
    about = event(key, revision, payload)
    return state_service_pb2.Datum(
        data_key=key,
        sequence=about.sequence,
        revision=revision,
        deleted=not payload,
        event=about,
    )


class States(state_service_pb2_grpc.StateServiceServicer):
    """A project of two data, one of which was deleted."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def StreamState(self, request, _context):
        self.requests.append(request)
        keys = list(request.data_keys) or ["api_config", "rates"]
        response = state_service_pb2.StreamStateResponse(
            as_of=asked(request.as_of), data_count=len(keys)
        )
        response.data.extend(datum(key) for key in keys if not key.startswith("none"))
        if request.include_deleted:
            response.data.append(datum("gone", 3, b""))
        if request.view == state_service_pb2.STATE_VIEW_KEYS:
            for found in response.data:
                found.ClearField("event")
        yield response

    def DiffStates(self, request, _context):
        self.requests.append(request)
        response = state_service_pb2.DiffStatesResponse(
            base=asked(request.base),
            target=asked(request.target),
            added_count=1,
            removed_count=1,
            changed_count=4,
        )
        response.changes.add(kind="CHANGE_KIND_ADDED", data_key="new", after=datum("new", 1))
        response.changes.add(kind="CHANGE_KIND_REMOVED", data_key="gone", before=datum("gone", 3))
        for key in ("json", "text", "same", "binary"):
            change = response.changes.add(
                kind="CHANGE_KIND_CHANGED", data_key=key, before=datum(key, 1), after=datum(key)
            )
            change.patch.SetInParent()
        response.changes[2].patch.json_patch = PATCH
        response.changes[3].patch.unified_diff = DIFF
        response.changes[5].patch.omitted = state_service_pb2.PATCH_OMITTED_BINARY
        return response

    def GetHistory(self, request, context):
        self.requests.append(request)
        if request.data_key == "none":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such datum")
        response = state_service_pb2.GetHistoryResponse(as_of=asked(request.as_of))
        for number in (3, 2, 1):
            revision = response.revisions.add(event=event(request.data_key, number))
            revision.time.FromMilliseconds(START_MS + number)
            if number > 1 and not request.omit_patches:
                revision.patch.json_patch = PATCH
        return response

    def GetRevision(self, request, _context):
        self.requests.append(request)
        response = state_service_pb2.GetRevisionResponse()
        response.revision.event.CopyFrom(event(request.data_key, request.revision))
        response.revision.time.FromMilliseconds(START_MS)
        return response

    def GetBlame(self, request, _context):
        self.requests.append(request)
        response = state_service_pb2.GetBlameResponse(
            event=event(request.data_key, 3), as_of=asked(request.as_of), truncated=True
        )
        for path, value, revision, who in (
            ("/timeout", "60", 3, "ops"),
            ("/url", '"https://a"', 1, "dev"),
        ):
            part = response.parts.add(
                path=path, value=value, sequence=f"{revision}-0", revision=revision, publisher=who
            )
            part.time.FromMilliseconds(START_MS)
        return response


class Agents(agent_service_pb2_grpc.AgentServiceServicer):
    """An agent that knows an old revision, and missed a datum."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.connected = True

    def GetAgentContext(self, request, _context):
        self.requests.append(request)
        response = agent_service_pb2.GetAgentContextResponse(
            as_of=asked(request.as_of), last_sent_sequence="5-0"
        )
        response.agent.agent_id = request.agent_id
        response.agent.needs.add(text=NEED, threshold=0.5)
        response.agent.acknowledged_sequence = "4-0"
        known = response.known.add(
            data_key="api_config",
            sequence="5-0",
            revision=4,
            latest_sequence="9-0",
            latest_revision=6,
            event=event("api_config", 4),
            stale=True,
            stale_reason="STALE_REASON_MUTED",
            pending_kind="MATCH_KIND_UPDATED",
        )
        known.sent_time.FromMilliseconds(START_MS)
        known.needs.add(need=NEED, score=0.71)
        response.pending.append(matched("missed", 7))
        held = response.held_back.add(reason="HELD_BACK_REASON_BELOW_THRESHOLD")
        held.data.CopyFrom(matched("nearly", 8))
        stream = response.streams.add(stream_id="s", peer="ipv4:10.0.0.7:1", client="contex-python")
        stream.opened_time.FromMilliseconds(START_MS)
        if not self.connected:
            stream.closed_time.FromMilliseconds(START_MS + 100)
        response.last_sent_time.FromMilliseconds(START_MS)
        return response

    def ListDeliveries(self, request, _context):
        self.requests.append(request)
        response = agent_service_pb2.ListDeliveriesResponse()
        for resend in (False, True):
            delivery = response.deliveries.add(
                agent_id="checkout",
                sequence="5-0",
                data_key="api_config",
                revision=4,
                kind="DELIVERY_KIND_STREAM",
                change="MATCH_KIND_UPDATED",
                resend=resend,
                position="5-0",
                stream_id="s",
            )
            delivery.time.FromMilliseconds(START_MS)
            delivery.needs.add(need=NEED, score=0.71)
            delivery.needs.add(need_index=1, score=0.6)
        return response


class Audits(audit_service_pb2_grpc.AuditServiceServicer):
    """Two records, as rows and as a file."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def ListRecords(self, request, _context):
        self.requests.append(request)
        response = audit_service_pb2.ListRecordsResponse()
        for action, actor in (("PUBLISHED", "ops"), ("DELIVERED", "contex")):
            record = response.records.add(
                record_id="1-0",
                action=f"AUDIT_ACTION_{action}",
                actor=actor,
                peer="ipv4:10.0.0.7:1",
                client="contex-python/0.1.0 grpc/1",
                request_id="r-1",
                data_key="api_config",
                sequence="5-0",
                revision=4,
            )
            record.time.FromMilliseconds(START_MS)
        return response

    def ExportRecords(self, request, context):
        self.requests.append(request)
        yield audit_service_pb2.ExportRecordsResponse(data=b"time,action\n", record_count=0)
        if request.format == audit_service_pb2.AUDIT_FORMAT_PARQUET:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "not installed: parquet")
        yield audit_service_pb2.ExportRecordsResponse(data=b"then,PUBLISHED\n", record_count=1)


class Projects(project_service_pb2_grpc.ProjectServiceServicer):
    """A project with events in two of 24 hours."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def GetStats(self, request, _context):
        self.requests.append(request)
        return project_service_pb2.GetStatsResponse(
            event_count=1_204_311,
            first_sequence=f"{START_MS}-0",
            last_sequence=f"{START_MS + 5}-0",
            event_bytes=5 << 20,
            data_key_count=930,
            events_per_second=3.25,
            counted_since="0-0",
        )

    def GetActivity(self, request, _context):
        self.requests.append(request)
        response = project_service_pb2.GetActivityResponse(
            bucket_seconds=3_600, name_count=2, counted_since="0-0"
        )
        response.start_time.FromMilliseconds(START_MS)
        response.end_time.FromMilliseconds(START_MS + 24 * 3_600_000)
        names = {"$a_{1}": 30, "": 10}
        if request.names == ["none"]:
            names = {}
        for name, count in names.items():
            response.series.add(name=name, total=count, counts=[count, *[0] * 23])
        response.total.total = sum(names.values())
        response.total.counts.extend([response.total.total, *[0] * 23])
        response.peak_hours.extend([response.total.total, *[0] * 23])
        return response


@contextlib.contextmanager
def serving() -> Iterator[tuple[str, States, Agents, Audits, Projects]]:
    """Its target, and what answers."""
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    states, agents, audits, projects = States(), Agents(), Audits(), Projects()
    state_service_pb2_grpc.add_StateServiceServicer_to_server(states, server)
    agent_service_pb2_grpc.add_AgentServiceServicer_to_server(agents, server)
    audit_service_pb2_grpc.add_AuditServiceServicer_to_server(audits, server)
    project_service_pb2_grpc.add_ProjectServiceServicer_to_server(projects, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", states, agents, audits, projects
    finally:
        server.stop(0).wait()
