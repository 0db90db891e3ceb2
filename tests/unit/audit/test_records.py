"""Records of the audit as they are stored."""

from __future__ import annotations

import orjson
from contex_server.api.shared import fields
from contex_server.audit.records import (
    REFUSALS,
    AuditAction,
    AuditFilter,
    RecordId,
    decode_action,
    encode_action,
)
from contex_server.kernel.model import SERVICE, Sequence

PLACE = RecordId(Sequence(1, 2), REFUSALS, 0)


def test_an_action_of_a_later_version_is_told_as_unknown() -> None:
    note = orjson.loads(encode_action(AuditAction.EXPORTED, SERVICE, "x", count=3))
    record = decode_action(PLACE, orjson.dumps(note | {"action": "FORGOTTEN"}))
    assert (record.action, record.detail, record.count) == (AuditAction.UNSPECIFIED, "x", 3)
    assert AuditFilter().passes(record)


def test_the_source_of_refusals_is_no_agent() -> None:
    assert RecordId.parse(str(PLACE)) == PLACE
    assert not fields.agent_id.fits(REFUSALS)
