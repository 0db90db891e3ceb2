"""What commands print for programs: JSON objects with stable keys.


Keys of an event: sequence, time (RFC 3339, UTC), event_type, data_key, revision,
previous_sequence, publisher, description, content_type, metadata, opaque, and one of payload (the
JSON value), payload_text and payload_base64, or none where there is no payload; erased (time,
request_id, reason, payload_digest) where it was erased. A matched event
also has score, matches, payload_omitted, backfilled, and context where `--format` asked for it.

Keys of a match: need_index, need, score, cosine, threshold, model, path, passage,
background_mean, background_deviation, standing, lexical, share, background_passages,
background_sequence, scorer.

Keys of an agent: agent_id, needs, need_specs (text, threshold, max_matches, exclude: what
`--needs-file` reads), threshold, max_matches, min_delta (payload_changed, json_pointers; or null),
registered_time, updated_time, acknowledged_sequence. `register` and `agents update` add sequence,
cursor, data (matched events) and context.

`match`: questions, sequence, data (matched events), context. A context is null or has format,
text, tokens, token_counter and omitted (data_key, sequence, score, tokens).

`explain`: matched, verdict, score, threshold, log_odds, contributions (name, value, weight,
log_odds), terms (word, stem, weight, hit), passages (path, text, score, cosine, lexical), rank,
data_count, match, event.

`backtest`: a line for each matched event, then one with the key summary: events_judged,
events_matched, data_keys_matched, updates_held_back, needs (need, threshold, events_matched,
events_at_threshold: from "0.05" to "0.95").

`feedback give`: sequence. `feedback export`: need, useful, comment, agent_id, time,
feedback_sequence, then of the judged event sequence, data_key, revision, description,
content_type and the payload as above, then the keys of its match but need_index.

`matching`: model, configured_model, texts_embedded, texts_total, data_indexed, passages_indexed,
needs_indexed, index_bytes, scorer, default_threshold.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from contex import (
        Agent,
        BacktestSummary,
        Context,
        Event,
        Explanation,
        Feedback,
        Match,
        MatchAnswer,
        MatchedEvent,
        MatchingStatus,
        Need,
        Registration,
    )

JSON_CONTENT_TYPE = "application/json"


def event_record(event: Event) -> dict[str, Any]:
    """An event under its stable JSON keys."""
    record: dict[str, Any] = {
        "sequence": event.sequence,
        "time": rfc3339(event.time),
        "event_type": event.event_type,
        "data_key": event.data_key,
        "revision": event.revision,
        "previous_sequence": event.previous_sequence,
        "publisher": event.publisher,
        "description": event.description,
        "content_type": event.content_type or JSON_CONTENT_TYPE,
        "metadata": dict(event.metadata),
        "opaque": event.opaque,
    }
    if event.erased is not None:
        record["erased"] = {
            "time": rfc3339(event.erased.time),
            "request_id": event.erased.request_id,
            "reason": event.erased.reason,
            "payload_digest": event.erased.payload_digest.hex(),
        }
        return record
    record.update(_payload_entry(event))
    return record


def matched_record(matched: MatchedEvent) -> dict[str, Any]:
    """A matched event under its stable JSON keys."""
    record = {
        **event_record(matched.event),
        "score": matched.score,
        "matches": [match_record(match) for match in matched.matches],
        "payload_omitted": matched.payload_omitted,
        "backfilled": matched.backfilled,
    }
    if matched.context:
        record["context"] = matched.context
    return record


def match_record(match: Match) -> dict[str, Any]:
    """One reason of a match under its stable JSON keys."""
    return asdict(match)


def agent_record(agent: Agent) -> dict[str, Any]:
    """A registration under its stable JSON keys."""
    return {
        "agent_id": agent.agent_id,
        "needs": list(agent.needs),
        "threshold": agent.threshold,
        "max_matches": agent.max_matches,
        "need_specs": [need_record(need) for need in agent.need_specs],
        "min_delta": asdict(agent.min_delta) if agent.min_delta is not None else None,
        "registered_time": rfc3339(agent.registered_time),
        "updated_time": rfc3339(agent.updated_time),
        "acknowledged_sequence": agent.acknowledged_sequence,
    }


def need_record(need: Need) -> dict[str, Any]:
    """A need with its options, as `--needs-file` reads it."""
    return {
        "text": need.text,
        "threshold": need.threshold,
        "max_matches": need.max_matches,
        "exclude": list(need.exclude_data_keys),
    }


def registration_record(registration: Registration) -> dict[str, Any]:
    """What a registration brings, under its stable JSON keys."""
    return {
        **agent_record(registration.agent),
        "sequence": registration.sequence,
        "cursor": registration.cursor,
        "data": [matched_record(datum) for datum in registration.data],
        "context": context_record(registration.context),
    }


def answer_record(answer: MatchAnswer) -> dict[str, Any]:
    """What answers some questions, under its stable JSON keys."""
    return {
        "questions": list(answer.questions),
        "sequence": answer.sequence,
        "data": [matched_record(datum) for datum in answer.data],
        "context": context_record(answer.context),
    }


def context_record(context: Context | None) -> dict[str, Any] | None:
    """Data written out, under their stable JSON keys."""
    return None if context is None else asdict(context)


def explanation_record(explanation: Explanation) -> dict[str, Any]:
    """A score taken apart, under its stable JSON keys."""
    return {
        "matched": explanation.matched,
        "verdict": explanation.verdict,
        "score": explanation.match.score,
        "threshold": explanation.match.threshold,
        "log_odds": explanation.log_odds,
        "contributions": list(map(asdict, explanation.contributions)),
        "terms": list(map(asdict, explanation.terms)),
        "passages": list(map(asdict, explanation.passages)),
        "rank": explanation.rank,
        "data_count": explanation.data_count,
        "match": match_record(explanation.match),
        "event": event_record(explanation.event),
    }


def summary_record(
    summary: BacktestSummary, needs: list[tuple[str, float]], thresholds: Sequence[float]
) -> dict[str, Any]:
    """What a backtest found, under its stable JSON keys; `needs` are texts and thresholds."""
    return {
        "summary": {
            "events_judged": summary.events_judged,
            "events_matched": summary.events_matched,
            "data_keys_matched": summary.data_keys_matched,
            "updates_held_back": summary.updates_held_back,
            "needs": [
                {
                    "need": text,
                    "threshold": threshold,
                    "events_matched": found.events_matched,
                    "events_at_threshold": {
                        f"{at:.2f}": count
                        for at, count in zip(thresholds, found.events_at_threshold, strict=False)
                    },
                }
                for (text, threshold), found in zip(needs, summary.needs, strict=False)
            ],
        }
    }


def feedback_record(feedback: Feedback) -> dict[str, Any]:
    """A judgement with what was judged, under its stable JSON keys."""
    event, match = feedback.event, match_record(feedback.match)
    del match["need_index"]
    record = {
        "need": feedback.need,
        "useful": feedback.useful,
        "comment": feedback.comment,
        "agent_id": feedback.agent_id,
        "time": rfc3339(feedback.time),
        "feedback_sequence": feedback.sequence,
        "sequence": event.sequence,
        "data_key": event.data_key,
        "revision": event.revision,
        "description": event.description,
        "content_type": event.content_type or JSON_CONTENT_TYPE,
    }
    record.update(_payload_entry(event))
    return {**match, **record}


def status_record(status: MatchingStatus) -> dict[str, Any]:
    """How a project is matched, under its stable JSON keys."""
    return asdict(status)


def rfc3339(time: datetime) -> str:
    """UTC with milliseconds, as `--since` reads it."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_json(content_type: str) -> bool:
    """Whether a payload of this type is JSON; an empty type is."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type in ("", JSON_CONTENT_TYPE) or media_type.endswith("+json")


def _payload_entry(event: Event) -> dict[str, Any]:
    if not event.payload:
        return {}
    if is_json(event.content_type):
        try:
            orjson.loads(event.payload)
        except orjson.JSONDecodeError:
            pass
        else:
            return {"payload": json_fragment(event.payload)}
    try:
        return {"payload_text": event.payload.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(event.payload).decode()}


def json_fragment(payload: bytes) -> orjson.Fragment:
    """The payload as it is, so that numbers keep all their digits, but on one line."""
    if b"\n" in payload or b"\r" in payload:
        # orjson would turn integers beyond 64 bits into floats.
        payload = json.dumps(json.loads(payload), ensure_ascii=False).encode()
    return orjson.Fragment(payload)
