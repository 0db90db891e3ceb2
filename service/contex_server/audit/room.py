"""The room of the audit, put together."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from contex_server.agents.journal_reader import JournalReader
from contex_server.audit.reader import AuditReader
from contex_server.audit.writer import AuditWriter
from contex_server.tiers.storage import Storage


@dataclass(frozen=True, slots=True)
class AuditRoom:
    """Writes and reads the audit."""

    writer: AuditWriter
    reader: AuditReader


def open_audit(storage: Storage, journals: JournalReader, stack: AsyncExitStack) -> AuditRoom:
    """Builds the room; the stack closes it."""
    log, store = storage.log, storage.store
    writer = AuditWriter(log, store.audit)
    stack.push_async_callback(writer.close)
    return AuditRoom(writer, AuditReader(log, store.audit, store.journals, journals))
