"""Everything a store offers, by capability."""

from __future__ import annotations

from dataclasses import dataclass

from contex_server.log.access import AccessStore
from contex_server.log.agents import AgentStore, JournalStore
from contex_server.log.archive import ArchiveStore
from contex_server.log.audit import AuditStore
from contex_server.log.expiry import ExpiryStore
from contex_server.log.groups import GroupStore
from contex_server.log.inboxes import InboxStore
from contex_server.log.keys import KeyStore
from contex_server.log.match import MatchStore
from contex_server.log.port import DescriptionStore, PresenceStore, StoreLog
from contex_server.log.projects import ProjectStore
from contex_server.log.quota import QuotaStore
from contex_server.log.state import SnapshotStore, StateStore
from contex_server.log.tasks import TaskStore
from contex_server.log.transfer import TransferStore


@dataclass(frozen=True, slots=True)
class Store:
    """A backend: the log and one facet for each capability. `events.close` closes all of it."""

    events: StoreLog
    presence: PresenceStore
    descriptions: DescriptionStore
    expiry: ExpiryStore
    state: StateStore
    snapshots: SnapshotStore
    match: MatchStore
    agents: AgentStore
    journals: JournalStore
    inboxes: InboxStore
    groups: GroupStore
    audit: AuditStore
    projects: ProjectStore
    tasks: TaskStore
    archive: ArchiveStore
    keys: KeyStore
    transfer: TransferStore
    access: AccessStore
    quota: QuotaStore
