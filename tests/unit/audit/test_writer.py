"""Refused calls fill neither the audit nor the store, however many there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from contex_server.audit import writer
from contex_server.audit.writer import AuditWriter
from contex_server.kernel.model import BEGINNING, Origin, Sequence

OPS = Origin("ops", "ipv4:1.2.3.4:5", "tests")


class Log:
    """A log whose projects have events, but for those that are called "empty"."""

    def __init__(self) -> None:
        self.notes: dict[str, list[Any]] = {}

    async def bounds(self, project: str) -> Any:
        return SimpleNamespace(tail=BEGINNING if project == "empty" else Sequence(1, 0))

    async def note_actions(self, project: str, actions: list[bytes]) -> None:
        self.notes.setdefault(project, []).extend(map(orjson.loads, actions))

    note_refusals = note_actions


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(writer, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
async def audit(log: Log, clock: SimpleNamespace) -> AsyncIterator[AuditWriter]:
    audit = AuditWriter(log, log)  # type: ignore[arg-type]
    yield audit
    await audit.close()


async def written(audit: AuditWriter) -> None:
    async with asyncio.timeout(10):
        await audit._idle.wait()


async def test_a_refused_call_is_noted_with_who_what_and_why(log: Log, audit: AuditWriter) -> None:
    audit.refused("shop", OPS, "Publish", "INVALID_FIELD")
    await written(audit)
    (note,) = log.notes["shop"]
    assert (note["action"], note["detail"]) == ("REFUSED", "Publish: INVALID_FIELD")
    assert (note["origin"], note["count"]) == (list(OPS.parts), 1)


async def test_a_project_has_a_burst_of_records_and_then_one_each_interval(
    log: Log, audit: AuditWriter, clock: SimpleNamespace
) -> None:
    for _ in range(10_000):
        audit.refused("shop", OPS, "Publish", "INVALID_FIELD")
    await written(audit)
    assert len(log.notes["shop"]) == writer.REFUSED_BURST
    clock.now += writer.REFUSED_EVERY_S
    for _ in range(100):
        audit.refused("shop", OPS, "Publish", "INVALID_FIELD")
    await written(audit)
    assert len(log.notes["shop"]) == writer.REFUSED_BURST + 1
    # Every refused call is counted in the next record.
    assert sum(note["count"] for note in log.notes["shop"]) == 10_001


async def test_inventing_projects_gains_nothing(log: Log, audit: AuditWriter) -> None:
    for n in range(5_000):
        audit.refused(f"p{n}", OPS, "Publish", "INVALID_FIELD")
    await written(audit)
    assert sum(map(len, log.notes.values())) == writer.REFUSED_BURST_ALL


async def test_a_refused_call_brings_no_project_into_being(log: Log, audit: AuditWriter) -> None:
    audit.refused("empty", OPS, "Publish", "INVALID_FIELD")
    audit.exported("empty", OPS, "Replay", 0)
    await written(audit)
    assert [note["action"] for note in log.notes["empty"]] == ["EXPORTED"]


async def test_what_was_refused_since_the_last_record_is_recorded_at_the_end(
    log: Log, clock: SimpleNamespace
) -> None:
    audit = AuditWriter(log, log)  # type: ignore[arg-type]
    for _ in range(1_000):
        audit.refused("shop", OPS, "Publish", "INVALID_FIELD")
    await audit.close()
    assert len(log.notes["shop"]) == writer.REFUSED_BURST + 1
    assert sum(note["count"] for note in log.notes["shop"]) == 1_000
    assert log.notes["shop"][-1]["origin"] == list(OPS.parts)
