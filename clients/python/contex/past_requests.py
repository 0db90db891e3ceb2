"""Requests about the past and the records, the same for both clients."""

from __future__ import annotations

from collections.abc import Iterable

from .moments import At, position
from .records import ActivityDimension, AuditAction, AuditFormat
from .requests import order, several
from .v1 import (
    agent_service_pb2,
    audit_service_pb2,
    event_pb2,
    project_service_pb2,
    state_service_pb2,
)

PAGE = 1_000
"""What is asked for at once where all pages are wanted."""


def get_state(
    project: str,
    *,
    as_of: At | None,
    data_keys: Iterable[str],
    prefix: str,
    keys_only: bool,
    include_deleted: bool,
) -> state_service_pb2.GetStateRequest:
    """The data as of a moment."""
    return state_service_pb2.GetStateRequest(
        project=project,
        as_of=position(as_of),
        data_keys=several(data_keys),
        prefix=prefix,
        view=_view(keys_only),
        include_deleted=include_deleted,
        page_size=PAGE,
    )


def stream_state(
    project: str,
    *,
    as_of: At | None,
    data_keys: Iterable[str],
    prefix: str,
    keys_only: bool,
    include_deleted: bool,
) -> state_service_pb2.StreamStateRequest:
    """The same as a stream."""
    return state_service_pb2.StreamStateRequest(
        project=project,
        as_of=position(as_of),
        data_keys=several(data_keys),
        prefix=prefix,
        view=_view(keys_only),
        include_deleted=include_deleted,
    )


def diff_states(
    project: str,
    base: At,
    target: At | None,
    *,
    data_keys: Iterable[str],
    prefix: str,
    keys_only: bool,
    omit_patches: bool,
) -> state_service_pb2.DiffStatesRequest:
    """What differs between two moments."""
    return state_service_pb2.DiffStatesRequest(
        project=project,
        base=position(base),
        target=position(target),
        data_keys=several(data_keys),
        prefix=prefix,
        view=_view(keys_only),
        omit_patches=omit_patches,
        page_size=PAGE,
    )


def history(
    project: str,
    data_key: str,
    *,
    as_of: At | None,
    omit_patches: bool,
    omit_payloads: bool,
    page_size: int,
) -> state_service_pb2.GetHistoryRequest:
    """The revisions of a data key."""
    return state_service_pb2.GetHistoryRequest(
        project=project,
        data_key=data_key,
        as_of=position(as_of),
        omit_patches=omit_patches,
        omit_payloads=omit_payloads,
        page_size=page_size,
    )


def blame(project: str, data_key: str, as_of: At | None) -> state_service_pb2.GetBlameRequest:
    """Who set what."""
    return state_service_pb2.GetBlameRequest(
        project=project, data_key=data_key, as_of=position(as_of)
    )


def agent_context(
    project: str, agent_id: str, *, as_of: At | None, omit_payloads: bool, near_misses: int
) -> agent_service_pb2.GetAgentContextRequest:
    """What an agent knew."""
    return agent_service_pb2.GetAgentContextRequest(
        project=project,
        agent_id=agent_id,
        as_of=position(as_of),
        omit_payloads=omit_payloads,
        near_misses=near_misses,
    )


def deliveries(
    project: str,
    *,
    sequence: str | None,
    agent_id: str | None,
    since: At | None,
    until: At | None,
    backwards: bool,
    page_size: int,
) -> agent_service_pb2.ListDeliveriesRequest:
    """Who was sent an event, or what was sent to an agent."""
    if (sequence is None) == (agent_id is None):
        raise ValueError("give a sequence or an agent_id")
    request = agent_service_pb2.ListDeliveriesRequest(
        project=project,
        since=position(since),
        until=position(until),
        order=order(backwards) if agent_id is not None else event_pb2.ORDER_UNSPECIFIED,
        page_size=page_size,
    )
    if sequence is not None:
        request.sequence = sequence
    if agent_id is not None:
        request.agent_id = agent_id
    return request


def audit(
    project: str,
    *,
    since: At | None,
    until: At | None,
    actions: Iterable[AuditAction],
    actors: Iterable[str],
    agent_ids: Iterable[str],
    data_keys: Iterable[str],
    request_id: str,
    backwards: bool,
    page_size: int,
) -> audit_service_pb2.ListRecordsRequest:
    """Records of the audit."""
    return audit_service_pb2.ListRecordsRequest(
        project=project,
        since=position(since),
        until=position(until),
        filter=_audit_filter(actions, actors, agent_ids, data_keys, request_id),
        order=order(backwards),
        page_size=page_size,
    )


def export_audit(
    project: str,
    form: AuditFormat,
    *,
    since: At | None,
    until: At | None,
    actions: Iterable[AuditAction],
    actors: Iterable[str],
    agent_ids: Iterable[str],
    data_keys: Iterable[str],
    request_id: str,
) -> audit_service_pb2.ExportRecordsRequest:
    """The audit as a file."""
    return audit_service_pb2.ExportRecordsRequest(
        project=project,
        since=position(since),
        until=position(until),
        filter=_audit_filter(actions, actors, agent_ids, data_keys, request_id),
        format=audit_service_pb2.AuditFormat.Value(f"AUDIT_FORMAT_{AuditFormat(form).name}"),
    )


def activity(
    project: str,
    dimension: ActivityDimension,
    *,
    since: At | None,
    until: At | None,
    bucket_seconds: int,
    names: Iterable[str],
    top: int,
    utc_offset_minutes: int,
) -> project_service_pb2.GetActivityRequest:
    """How many events there were."""
    name = ActivityDimension(dimension).name
    return project_service_pb2.GetActivityRequest(
        project=project,
        dimension=project_service_pb2.ActivityDimension.Value(f"ACTIVITY_DIMENSION_{name}"),
        since=position(since),
        until=position(until),
        bucket_seconds=bucket_seconds,
        names=several(names),
        top=top,
        utc_offset_minutes=utc_offset_minutes,
    )


def _view(keys_only: bool) -> state_service_pb2.StateView.ValueType:
    return state_service_pb2.STATE_VIEW_KEYS if keys_only else state_service_pb2.STATE_VIEW_FULL


def _audit_filter(
    actions: Iterable[AuditAction],
    actors: Iterable[str],
    agent_ids: Iterable[str],
    data_keys: Iterable[str],
    request_id: str,
) -> audit_service_pb2.AuditFilter:
    names = [AuditAction(action).name for action in several(actions)]
    return audit_service_pb2.AuditFilter(
        actions=[audit_service_pb2.AuditAction.Value(f"AUDIT_ACTION_{name}") for name in names],
        actors=several(actors),
        agent_ids=several(agent_ids),
        data_keys=several(data_keys),
        request_id=request_id,
    )
