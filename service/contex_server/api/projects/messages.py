"""Figures, retention and verification of a project as the API has them."""

from __future__ import annotations

from dataclasses import asdict

from contex.v1 import project_service_pb2 as pb

from contex_server.kernel.protobuf import timestamp
from contex_server.projects.activity import Activity, Series
from contex_server.projects.retention import Retention
from contex_server.projects.verification import VerifyProgress


def retention_message(retention: Retention) -> pb.Retention:
    """A retention."""
    return pb.Retention(**asdict(retention))


def activity_message(activity: Activity) -> pb.GetActivityResponse:
    """How many events there were, bucket by bucket."""
    buckets = activity.buckets
    return pb.GetActivityResponse(
        series=map(_series, activity.series),
        total=_series(activity.total),
        start_time=timestamp(buckets.start * 1000),
        end_time=timestamp(buckets.end * 1000),
        bucket_seconds=buckets.bucket_s,
        name_count=activity.names,
        peak_hours=activity.peak_hours,
        counted_since=str(activity.counted_since),
    )


def _series(series: Series) -> pb.ActivitySeries:
    return pb.ActivitySeries(name=series.name, total=series.total, counts=series.counts)


def verify_message(step: VerifyProgress) -> bytes:
    """How far a verification has come, serialised."""
    response = pb.VerifyProjectResponse(event_count=step.events, total_count=step.total)
    if step.finding is not None:
        response.finding.CopyFrom(pb.Finding(**asdict(step.finding)))
    if step.summary is not None:
        response.summary.CopyFrom(pb.VerifySummary(**asdict(step.summary)))
    return response.SerializeToString()
