from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import Any

import contex
import pytest
from contex import wire
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
    assert [wire.enum_member(kind, numbers, wire.enum_number(m, numbers)) for m in members] == (
        members
    )
    assert len(members) == len(numbers.values()) - 1  # all but unspecified


def test_a_member_that_a_newer_server_has_added_is_other() -> None:
    assert wire.enum_member(contex.FindingKind, project_service_pb2.FindingKind, 99) is (
        contex.FindingKind.OTHER
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (contex.Erasure, event_pb2.Erased),
        (contex.Context, event_pb2.Context),
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
        (contex.ExportPiece, transfer_service_pb2.ExportResponse),
        (contex.ImportReport, transfer_service_pb2.ImportReport),
    ],
)
def test_a_value_has_the_fields_of_its_message(kind: Any, message: Any) -> None:
    fields = {field.name for field in message.DESCRIPTOR.fields}
    assert fields == set(kind.__dataclass_fields__)


def test_timestamps_and_repeated_fields_are_converted() -> None:
    message = match_service_pb2.NeedSummary(events_matched=3, events_at_threshold=[3, 2])
    assert wire.to_value(contex.NeedSummary, message) == contex.NeedSummary(3, (3, 2))
    record = audit_service_pb2.AuditRecord(record_id="r", action=1)
    record.time.FromMilliseconds(1)
    value = wire.to_value(contex.AuditRecord, record)
    assert value.time == datetime(1970, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)
    assert value.action is contex.AuditAction.PUBLISHED


@pytest.mark.parametrize("text", ["2025-01-01T12:00:00", "2025-01-01 12:00"])
def test_a_time_needs_a_zone(text: str) -> None:
    with pytest.raises(ValueError, match="time zone"):
        wire.position(text)


def test_positions() -> None:
    assert wire.position(None) is None
    for at, expected in (
        ("5-1", event_pb2.Position(sequence="5-1")),
        ("0", event_pb2.Position(sequence="0")),
        ("nonsense", event_pb2.Position(sequence="nonsense")),  # the server refuses it
        (1764000000123, event_pb2.Position(unix_ms=1764000000123)),
    ):
        assert wire.position(at) == expected
    time = wire.position("2025-01-01T12:00:00+02:00")
    assert time == wire.position(datetime(2025, 1, 1, 10, tzinfo=UTC))
