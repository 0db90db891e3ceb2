"""The services of the API, each on its room: the only list of them."""

from __future__ import annotations

from contex_server.api.agents.servicer import AgentServicer
from contex_server.api.audit.servicer import AuditServicer
from contex_server.api.events.servicer import EventServicer
from contex_server.api.match.servicer import MatchServicer
from contex_server.api.projects.servicer import ProjectServicer
from contex_server.api.state.servicer import StateServicer
from contex_server.api.transfer.servicer import TransferServicer
from contex_server.kernel.config import Settings
from contex_server.kernel.drain import Drain
from contex_server.rooms import Rooms

Servicers = tuple[
    EventServicer,
    AgentServicer,
    MatchServicer,
    StateServicer,
    AuditServicer,
    ProjectServicer,
    TransferServicer,
]


def servicers(settings: Settings, rooms: Rooms, drain: Drain) -> Servicers:
    """Every service of the API."""
    storage, audit, limits = rooms.storage, rooms.audit.writer, settings.limits
    log, store = storage.log, storage.store
    events, agents, match, state = rooms.events, rooms.agents, rooms.match, rooms.state
    projects, transfer = rooms.projects, rooms.transfer
    return (
        EventServicer(settings, log, events.publisher, events.hub, audit, events.presence, drain),
        AgentServicer(
            settings,
            log,
            agents.registry,
            match.pool,
            agents.recorder,
            agents.journals,
            agents.contexts,
            events.presence,
            drain,
        ),
        MatchServicer(
            settings,
            log,
            store.match,
            agents.registry,
            match.queries,
            match.backtests,
            match.feedback,
            match.pool,
            match.reembedding,
            audit,
        ),
        StateServicer(settings, log, state.reader, state.history, audit, drain),
        AuditServicer(rooms.audit.reader, audit, limits),
        ProjectServicer(
            log,
            store.projects,
            storage.snapshots,
            projects.retention,
            projects.usage,
            projects.eraser,
            projects.verification,
            events.presence,
            limits,
        ),
        TransferServicer(transfer.exporter, transfer.importer, audit, limits),
    )
