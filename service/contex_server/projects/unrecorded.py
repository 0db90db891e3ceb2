"""Finds objects of the archive that the store does not know of.

An orphan was stored and not recorded, as a process died in between: the log has its events. What
has an event that the log does not have was recorded once, and the store has lost that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog

from contex_server.kernel.model import BEGINNING, Sequence
from contex_server.log.archive import Archived, SegmentRecord
from contex_server.log.port import Bounds
from contex_server.log.store import Store
from contex_server.tiers.archive import Archive
from contex_server.tiers.archived_log import ArchivedLog
from contex_server.tiers.segment import SegmentDamaged, SegmentIndex

log = structlog.get_logger(__name__)

STAGED = "staged"
"""An object of this name marks a directory whose events do not belong to a project yet."""
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """The segments of a project that the store does not know of.

    Attributes:
        archived: What the store knows.
        bounds: Those of the store's part of the log.
        names: Of the segments, ascending, by directory.
    """

    archived: Archived
    bounds: Bounds
    names: Mapping[str, list[str]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def directories(self) -> list[str]:
        """First the project's own. They are named by time: of others the last one counts."""
        own = self.archived.directory
        return sorted(self.names, key=lambda name: (name == own, name), reverse=True)

    def is_left_behind(self, directory: str) -> bool:
        """Whether the project has begun anew since, and goes on in another directory."""
        return directory < self.archived.directory


@dataclass(frozen=True, slots=True)
class UnrecordedFinder:
    """Looks for them. Every method may raise `ContexError` with STORE_UNAVAILABLE or
    ARCHIVE_UNAVAILABLE."""

    store: Store
    archive: Archive

    async def find(self, project: str) -> Unrecorded:
        """What there is now."""
        objects, sizes = self.archive.objects, dict[str, int]()
        archived = await self.store.archive.archived(project)
        for _ in range(_ATTEMPTS):
            sizes = await objects.list(f"{project}/")
            if archived.directory and not archived.directory.startswith(f"{project}/"):
                sizes |= await objects.list(f"{archived.directory}/")
            before, archived = archived, await self.store.archive.archived(project)
            if (before.directory, before.segments) == (archived.directory, archived.segments):
                break  # Otherwise some of them have been recorded meanwhile.
        staged = {name.rpartition("/")[0] for name in sizes if name.endswith(f"/{STAGED}")}
        staged.discard(archived.directory)  # Its mark is about to go.
        names: dict[str, list[str]] = {}
        for name in sorted(sizes):
            directory, _, leaf = name.rpartition("/")
            if not leaf.endswith(".seg") or leaf.startswith("remains-") or directory in staged:
                continue
            if archived.directory != directory or int(leaf[:8]) >= archived.segments:
                names.setdefault(directory, []).append(name)
        bounds = await self.store.events.bounds(project)
        return Unrecorded(archived, bounds, names, sizes)

    async def described(
        self, found: Unrecorded, name: str
    ) -> tuple[SegmentIndex, SegmentRecord] | None:
        """What a segment holds; None if it is damaged."""
        try:
            return await self.archive.describe(name, found.sizes[name])
        except SegmentDamaged:
            log.warning("segment_damaged", object=name)
            return None

    async def last_lost(self, project: str) -> Sequence | None:
        """The last archived event that the log does not have; None if it has all.

        What a project left behind when it began anew does not count: it is too late to ask.
        """
        found = await self.find(project)
        for directory in found.directories:
            if found.is_left_behind(directory):
                continue
            for name in reversed(found.names[directory]):
                described = await self.described(found, name)
                if described is not None:
                    last = described[1].last
                    if last > found.bounds.deleted and await self.is_lost(project, last):
                        return last
                    break
        return None

    async def orphans(self, project: str) -> tuple[list[str], Sequence | None]:
        """The names of those that may be deleted: none while there is one whose last event the log
        does not have; that is returned beside them.

        Those that are damaged are no orphans: they may be all that is left of some events.
        """
        found = await self.find(project)
        own = found.archived.directory
        if not own:
            return [], await self.last_lost(project)
        recorded = {record.name for record in (await self.archive.directory(project)).records}
        remains = found.archived.remains
        if remains is not None:
            recorded.add(remains.name)
        # The mark of a process that died as the directory became the project's.
        mark = f"{own}/{STAGED}"
        orphans = [mark] if mark in found.sizes else []
        for name in found.sizes:
            is_own = name.startswith(f"{own}/") and name.endswith(".seg")
            if not is_own or name in recorded:
                continue
            described = await self.described(found, name)
            if described is None:
                continue
            last = described[1].last
            if last > BEGINNING and await self.is_lost(project, last):
                return [], last
            orphans.append(name)
        return orphans, await self.last_lost(project)

    async def is_lost(self, project: str, last: Sequence) -> bool:
        """Whether the log does not have the last event of a segment, though it was not removed."""
        whole = ArchivedLog(self.store, self.archive)
        bounds = await whole.bounds(project)
        if last > bounds.tail:
            return True
        if bounds.trimmed and (bounds.first is None or last < bounds.first):
            return False
        (entry,) = await whole.get(project, [last])
        return entry is None
