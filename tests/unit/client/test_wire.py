from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import Any

import contex
import pytest
from contex import agents, audit, events, match, projects, state, transfer, wire
from contex.v1 import (
    agent_service_pb2,
    audit_service_pb2,
    event_pb2,
    match_service_pb2,
    project_service_pb2,
    state_service_pb2,
    transfer_service_pb2,
)

ENUMS: list[tuple[type[enum.Enum], Any]] = [
    (contex.ContextFormat, event_pb2.ContextFormat),
    (contex.HeldBackReason, agent_service_pb2.HeldBackReason),
    (contex.StaleReason, agent_service_pb2.StaleReason),
    (contex.DeliveryKind, agent_service_pb2.DeliveryKind),
    (contex.PatchOmitted, state_service_pb2.PatchOmitted),
    (contex.ChangeKind, state_service_pb2.ChangeKind),
    (contex.AuditAction, audit_service_pb2.AuditAction),
    (contex.AuditFormat, audit_service_pb2.AuditFormat),
    (contex.ActivityDimension, project_service_pb2.ActivityDimension),
    (contex.FindingKind, project_service_pb2.FindingKind),
    (contex.ExportFormat, transfer_service_pb2.ExportFormat),
    (contex.ExportPart, transfer_service_pb2.ExportPart),
    (contex.ImportMode, transfer_service_pb2.ImportMode),
    (contex.RedactionAction, transfer_service_pb2.RedactionAction),
]


@pytest.mark.parametrize(("kind", "numbers"), ENUMS)
def test_every_member_has_a_number_and_the_other_way_round(
    kind: type[enum.Enum], numbers: Any
) -> None:
    members = [member for member in kind if member.name != "OTHER"]
    assert [wire.enum_number(kind, member, numbers, "x") for member in members] == (
        numbers.values()[1:]  # all but unspecified
    )


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        (contex.ContextFormat, lambda n: events.context(event_pb2.PromptContext(format=n)).format),
        (
            contex.HeldBackReason,
            lambda n: agents.held_back(agent_service_pb2.HeldBack(reason=n)).reason,
        ),
        (
            contex.StaleReason,
            lambda n: agents.known_datum(agent_service_pb2.KnownDatum(stale_reason=n)).stale_reason,
        ),
        (contex.DeliveryKind, lambda n: agents.delivery(agent_service_pb2.Delivery(kind=n)).kind),
        (contex.PatchOmitted, lambda n: state.patch(state_service_pb2.Patch(omitted=n)).omitted),
        (contex.ChangeKind, lambda n: state.change(state_service_pb2.Change(kind=n)).kind),
        (
            contex.AuditAction,
            lambda n: audit.audit_record(audit_service_pb2.AuditRecord(action=n)).action,
        ),
        (contex.FindingKind, lambda n: projects.finding(project_service_pb2.Finding(kind=n)).kind),
        (
            contex.ExportFormat,
            lambda n: transfer.import_report(transfer_service_pb2.ImportReport(format=n)).format,
        ),
    ],
)
def test_the_members_of_messages_are_read(kind: type[enum.Enum], read: Any) -> None:
    numbers = dict(ENUMS)[kind]
    for member in kind:
        if member.name == "OTHER":  # a newer server has added it
            assert read(99) is member
        else:
            assert read(wire.enum_number(kind, member, numbers, "x")) is member


def test_what_is_unspecified_or_unknown_is_none_where_a_value_may_be_missing() -> None:
    assert state.patch(state_service_pb2.Patch()).omitted is None
    assert events.context(event_pb2.PromptContext()).format is None
    assert events.context(event_pb2.PromptContext(format=99)).format is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (contex.Erasure, event_pb2.Erased),
        (contex.Context, event_pb2.PromptContext),
        (contex.OmittedDatum, event_pb2.OmittedDatum),
        (contex.Agent, agent_service_pb2.Agent),
        (contex.KnownDatum, agent_service_pb2.KnownDatum),
        (contex.AgentStream, agent_service_pb2.AgentStream),
        (contex.Delivery, agent_service_pb2.Delivery),
        (contex.Explanation, match_service_pb2.ExplainResponse),
        (contex.Contribution, match_service_pb2.Contribution),
        (contex.TermHit, match_service_pb2.TermHit),
        (contex.PassageScore, match_service_pb2.PassageScore),
        (contex.BacktestProgress, match_service_pb2.BacktestProgress),
        (contex.BacktestSummary, match_service_pb2.BacktestSummary),
        (contex.Feedback, match_service_pb2.ExportFeedbackResponse),
        (contex.MatchingStatus, match_service_pb2.GetMatchingStatusResponse),
        (contex.Datum, state_service_pb2.Datum),
        (contex.Revision, state_service_pb2.Revision),
        (contex.AuditRecord, audit_service_pb2.AuditRecord),
        (contex.Stats, project_service_pb2.GetStatsResponse),
        (contex.Activity, project_service_pb2.GetActivityResponse),
        (contex.ActivitySeries, project_service_pb2.ActivitySeries),
        (contex.Retention, project_service_pb2.Retention),
        (contex.RemovedEvents, project_service_pb2.RemoveEventsResponse),
        (contex.ErasedData, project_service_pb2.EraseDataResponse),
        (contex.Finding, project_service_pb2.Finding),
        (contex.VerifySummary, project_service_pb2.VerifySummary),
        (contex.ExportSummary, transfer_service_pb2.ExportSummary),
        (contex.ExportPiece, transfer_service_pb2.ExportProjectResponse),
        (contex.ImportReport, transfer_service_pb2.ImportReport),
    ],
)
def test_a_value_has_the_fields_of_its_message(kind: Any, message: Any) -> None:
    fields = {field.name for field in message.DESCRIPTOR.fields}
    assert fields == set(kind.__dataclass_fields__)


def test_timestamps_and_repeated_fields_are_converted() -> None:
    message = match_service_pb2.NeedSummary(events_matched=3, events_at_threshold=[3, 2])
    assert match.need_summary(message) == contex.NeedSummary(3, (3, 2))
    record = audit_service_pb2.AuditRecord(record_id="r", action=1)
    record.time.FromMilliseconds(1)
    value = audit.audit_record(record)
    assert value.time == datetime(1970, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)
    assert value.action is contex.AuditAction.PUBLISHED


@pytest.mark.parametrize("text", ["2025-01-01T12:00:00", "2025-01-01 12:00"])
def test_a_time_needs_a_zone(text: str) -> None:
    with pytest.raises(ValueError, match="time zone"):
        wire.position(text, "at")


def test_positions() -> None:
    assert wire.position(None, "at") is None
    for at, expected in (
        ("5-1", event_pb2.Position(sequence="5-1")),
        ("0", event_pb2.Position(sequence="0")),
        ("nonsense", event_pb2.Position(sequence="nonsense")),  # the server refuses it
        (1764000000123, event_pb2.Position(unix_ms=1764000000123)),
    ):
        assert wire.position(at, "at") == expected
    time = wire.position("2025-01-01T12:00:00+02:00", "at")
    assert time == wire.position(datetime(2025, 1, 1, 10, tzinfo=UTC), "at")
