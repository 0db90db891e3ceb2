"""Figures, retention and verification of a project as the API has them."""

from __future__ import annotations

from contex.v1 import project_service_pb2

from contex_server.kernel.protobuf import timestamp
from contex_server.projects.activity import Activity, Series
from contex_server.projects.findings import VerifyProgress
from contex_server.projects.retention import Retention


def retention_message(retention: Retention) -> project_service_pb2.Retention:
    """A retention."""
    return project_service_pb2.Retention(
        store_seconds=retention.store_seconds,
        store_events=retention.store_events,
        store_bytes=retention.store_bytes,
        archive_seconds=retention.archive_seconds,
        legal_hold=retention.legal_hold,
    )


def activity_message(activity: Activity) -> project_service_pb2.GetActivityResponse:
    """How many events there were, bucket by bucket."""
    buckets = activity.buckets
    return project_service_pb2.GetActivityResponse(
        series=map(_series, activity.series),
        total=_series(activity.total),
        start_time=timestamp(buckets.start * 1000),
        end_time=timestamp(buckets.end * 1000),
        bucket_seconds=buckets.bucket_s,
        name_count=activity.names,
        peak_hours=activity.peak_hours,
        counted_since=str(activity.counted_since),
    )


def _series(series: Series) -> project_service_pb2.ActivitySeries:
    return project_service_pb2.ActivitySeries(
        name=series.name, total=series.total, counts=series.counts
    )


def verify_message(step: VerifyProgress) -> bytes:
    """How far a verification has come, serialised."""
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
