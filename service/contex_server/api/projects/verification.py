"""Verification, as the API has it."""

from __future__ import annotations

from contex.v1 import project_service_pb2

from contex_server.projects.verification import Step


def step_message(step: Step) -> bytes:
    """How far a verification is."""
    response = project_service_pb2.VerifyProjectResponse(
        event_count=step.events, total_count=step.total
    )
    if step.finding is not None:
        finding = step.finding
        response.finding.CopyFrom(
            project_service_pb2.Finding(
                kind=project_service_pb2.FindingKind.ValueType(finding.kind),
                place=finding.place,
                detail=finding.detail,
                repairable=finding.repairable,
                repaired=finding.repaired,
            )
        )
    if step.summary is not None:
        summary = step.summary
        response.summary.CopyFrom(
            project_service_pb2.VerifySummary(
                as_of_sequence=summary.as_of,
                event_count=summary.events,
                segment_count=summary.segments,
                snapshot_count=summary.snapshots,
                data_key_count=summary.keys,
                finding_count=summary.findings,
                repaired_count=summary.repaired,
            )
        )
    return response.SerializeToString()
