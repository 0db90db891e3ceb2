from __future__ import annotations

import contex
from contex import projects


def test_a_limit_of_retention_may_be_unset_or_zero() -> None:
    retention = contex.Retention(store_seconds=0, archive_seconds=60, legal_hold=True)
    message = projects.to_retention(retention)
    assert message.HasField("store_seconds")
    assert not message.HasField("store_events")
    assert projects.retention(message) == retention
