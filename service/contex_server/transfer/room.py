"""The room of transfers, put together."""

from __future__ import annotations

from dataclasses import dataclass

from contex_server.events.publisher import Publisher
from contex_server.kernel.config import Limits
from contex_server.kernel.growth import Growth
from contex_server.matching.models import Models
from contex_server.projects.room import ProjectsRoom
from contex_server.quota.keeper import QuotaKeeper
from contex_server.tiers.storage import Storage
from contex_server.transfer.exporter import Exporter
from contex_server.transfer.importer import Importer


@dataclass(frozen=True, slots=True)
class TransferRoom:
    """Reads projects out into files, and files into projects."""

    exporter: Exporter
    importer: Importer


def open_transfer(
    storage: Storage,
    publisher: Publisher,
    projects: ProjectsRoom,
    growth: Growth,
    models: Models,
    limits: Limits,
    quota: QuotaKeeper,
) -> TransferRoom:
    """Builds the room."""
    importer = Importer(storage, publisher, projects, growth, models, limits, quota)
    return TransferRoom(Exporter(storage), importer)
