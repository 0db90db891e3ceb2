"""The services of the API: the only list of them."""

from __future__ import annotations

from contex_server.api.agents.servicer import AgentServicer
from contex_server.api.audit.servicer import AuditServicer
from contex_server.api.events.servicer import EventServicer
from contex_server.api.match.servicer import MatchServicer
from contex_server.api.projects.servicer import ProjectServicer
from contex_server.api.state.servicer import StateServicer
from contex_server.api.transfer.servicer import TransferServicer

SERVICERS = (
    EventServicer,
    AgentServicer,
    MatchServicer,
    StateServicer,
    AuditServicer,
    ProjectServicer,
    TransferServicer,
)
