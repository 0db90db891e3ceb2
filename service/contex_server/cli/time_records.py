"""What the commands about time print for programs: JSON objects with stable keys.

A moment has sequence and time (RFC 3339, UTC). Keys of an event are those of `records`.

`state`: a line for each datum, the keys of its event, deleted and payload_omitted; with `--keys`
only data_key, sequence, revision and deleted. Then one with the key summary: as_of (a moment) and
data_count.

`diff`: a line for each change: kind (added, removed, changed), data_key, before and after (data as
above, or null), patch. Then one with the key summary: base and target (moments), added, removed,
changed. A patch is null or has json_patch (a list of operations), unified_diff, or omitted
(binary, too_large, trimmed).

`history`: a line for each revision: the keys of its event, patch and payload_omitted.

`blame`: a line for each part: path, value, sequence, revision, time, publisher. Then one with the
key summary: data_key, sequence and revision of the datum, as_of, truncated.

`knew`: as_of, connected, agent (as `agents show` has it), known (data_key, sequence, revision,
sent_time, needs, acknowledged, stale, latest_sequence, latest_revision, deleted, event), pending
(matched events), held_back (reason: min_delta, excluded, below_threshold or answer_full; then the
keys of a matched event), streams (stream_id, opened_time, closed_time, peer, client,
start_sequence), last_sent_time, last_sent_sequence.

`deliveries`: agent_id, sequence, data_key, revision, time, kind (stream, needs_changed, answer),
resend, needs, position, stream_id. Why something was sent, needs, is a list of need_index, need
and score.

`audit`: the columns of an export: time, action, actor, actor_verified, peer, client, request_id,
agent_id, data_key, sequence, revision, event_type, count, stream_id, detail, record_id.

`stats`: event_count, first_sequence, last_sequence, event_bytes, data_key_count,
deleted_key_count, agent_count, subscriber_count, listener_count, events_per_second,
snapshot_sequence, snapshot_count, snapshot_bytes, archived_sequence, counted_since,
store_event_count, archive_event_count, archive_bytes, segment_count, removed_event_count,
warnings.

`export`: cut_sequence, first_sequence, last_sequence, event_count, agent_count, vector_count,
digest. `import` and `clone`: dry_run, format (native, json_lines, cloud_events, legacy_json),
source_project, read_count, imported_count, skipped_count, present_count, remapped_count,
redacted_count, agent_count, vector_count, first_sequence, last_sequence, digest.

`retention`: own and effective (store_seconds, store_events, store_bytes, archive_seconds,
legal_hold), has_archive. `remove`: removed_count, first_sequence. `erase`: erased_count,
sequence, duplicate.

`verify`: a line for each difference: kind (segment, archive_ahead, event, state, snapshot, counter,
vector), place, detail, repairable, repaired. Then one with the key summary: as_of_sequence,
event_count, segment_count, snapshot_count, data_key_count, finding_count, repaired_count.

`activity`: dimension, start_time, end_time, bucket_seconds, total and series (name, total,
counts), name_count, peak_hours, utc_offset_minutes, counted_since.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

import orjson

from contex_server.cli.records import (
    agent_record,
    event_record,
    is_json,
    json_fragment,
    matched_record,
    rfc3339,
)

if TYPE_CHECKING:
    from contex import (
        Activity,
        AgentContext,
        AuditRecord,
        Blame,
        BlamedPart,
        Change,
        Datum,
        Delivery,
        KnownDatum,
        Moment,
        Patch,
        Revision,
        StateDiff,
        Stats,
    )


def moment_record(moment: Moment) -> dict[str, Any]:
    """Which event an answer is as of, and which instant was meant."""
    return {"sequence": moment.sequence, "time": rfc3339(moment.time)}


def datum_record(datum: Datum) -> dict[str, Any]:
    """A datum of a state under its stable JSON keys."""
    if datum.event is None:
        return {
            "data_key": datum.data_key,
            "sequence": datum.sequence,
            "revision": datum.revision,
            "deleted": datum.deleted,
        }
    return {
        **event_record(datum.event),
        "deleted": datum.deleted,
        "payload_omitted": datum.payload_omitted,
    }


def change_record(change: Change) -> dict[str, Any]:
    """A datum that differs under its stable JSON keys."""
    return {
        "kind": change.kind.name.lower(),
        "data_key": change.data_key,
        "before": None if change.before is None else datum_record(change.before),
        "after": None if change.after is None else datum_record(change.after),
        "patch": patch_record(change.patch),
    }


def diff_summary(diff: StateDiff) -> dict[str, Any]:
    """How two states differ, in numbers."""
    return {
        "summary": {
            "base": moment_record(diff.base),
            "target": moment_record(diff.target),
            "added": diff.added,
            "removed": diff.removed,
            "changed": diff.changed,
        }
    }


def patch_record(patch: Patch | None) -> dict[str, Any] | None:
    """A patch in the one form that it has; an empty one where the payloads are equal."""
    if patch is None:
        return None
    if patch.omitted is not None:
        return {"omitted": patch.omitted.name.lower()}
    if patch.json_patch is not None:
        return {"json_patch": json_fragment(patch.json_patch.encode())}
    return {"unified_diff": patch.unified_diff} if patch.unified_diff is not None else {}


def revision_record(revision: Revision) -> dict[str, Any]:
    """An event of a history under its stable JSON keys."""
    return {
        **event_record(revision.event),
        "patch": patch_record(revision.patch),
        "payload_omitted": revision.payload_omitted,
    }


def part_record(part: BlamedPart, content_type: str) -> dict[str, Any]:
    """A part of a datum and who set it; the value as JSON where the datum is JSON."""
    return {
        "path": part.path,
        "value": _value(part.value, content_type),
        "sequence": part.sequence,
        "revision": part.revision,
        "time": rfc3339(part.time),
        "publisher": part.publisher,
    }


def _value(value: str, content_type: str) -> Any:
    if not is_json(content_type):
        return value
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:  # a datum that claims to be JSON and is told by lines
        return value
    return json_fragment(value.encode())


def blame_summary(blame: Blame) -> dict[str, Any]:
    """Which datum was blamed."""
    return {
        "summary": {
            "data_key": blame.event.data_key,
            "sequence": blame.event.sequence,
            "revision": blame.event.revision,
            "as_of": moment_record(blame.as_of),
            "truncated": blame.truncated,
        }
    }


def agent_context_record(context: AgentContext, connected: bool) -> dict[str, Any]:
    """What an agent knew, under its stable JSON keys."""
    return {
        "as_of": moment_record(context.as_of),
        "connected": connected,
        "agent": agent_record(context.agent),
        "known": list(map(_known_record, context.known)),
        "pending": list(map(matched_record, context.pending)),
        "held_back": [
            {"reason": held.reason.name.lower(), **matched_record(held.data)}
            for held in context.held_back
        ],
        "streams": _plain(context.streams),
        "last_sent_time": _plain(context.last_sent_time),
        "last_sent_sequence": context.last_sent_sequence,
    }


def _known_record(known: KnownDatum) -> dict[str, Any]:
    return {
        "data_key": known.data_key,
        "sequence": known.sequence,
        "revision": known.revision,
        "sent_time": rfc3339(known.sent_time),
        "needs": _plain(known.needs),
        "acknowledged": known.acknowledged,
        "stale": known.stale,
        "latest_sequence": known.latest_sequence,
        "latest_revision": known.latest_revision,
        "deleted": known.deleted,
        "event": None if known.event is None else event_record(known.event),
    }


def delivery_record(delivery: Delivery) -> dict[str, Any]:
    """That an event was sent to an agent, under its stable JSON keys."""
    return _record(delivery)


AUDIT_COLUMNS = (
    *("time", "action", "actor", "actor_verified", "peer", "client", "request_id", "agent_id"),
    *("data_key", "sequence", "revision", "event_type", "count", "stream_id", "detail"),
    "record_id",
)
"""The columns of an export, in their order."""


def audit_record(record: AuditRecord) -> dict[str, Any]:
    """An action, under the names of an export's columns."""
    values = {**_record(record), "action": record.action.name}
    return {column: values[column] for column in AUDIT_COLUMNS}


def stats_record(stats: Stats) -> dict[str, Any]:
    """A project in numbers, under its stable JSON keys."""
    return _record(stats)


def activity_record(activity: Activity, dimension: str, utc_offset: int) -> dict[str, Any]:
    """How many events there were, under its stable JSON keys; the offset in minutes."""
    return {"dimension": dimension, **_record(activity), "utc_offset_minutes": utc_offset}


def plain_record(value: Any) -> dict[str, Any]:
    """A value of the client under the names of its fields."""
    return _record(value)


def _record(value: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}


def _plain(value: Any) -> Any:
    """A value of the client as JSON has it: times as text, names of enumerations in small."""
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, tuple | list):
        return list(map(_plain, value))
    if is_dataclass(value):
        return _record(value)
    return value
