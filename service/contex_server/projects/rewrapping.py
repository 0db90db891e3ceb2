"""Wraps keys anew after the master key was changed, in the background.

One process does it for the whole store, some keys at a time: first their copies in the archive,
then the store's. So what is left is what the store says, also after a crash: a new pass finds it.
Nothing is done while another process still wraps with another master key, which may not know this
one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import groupby
from typing import TypeVar

import structlog

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failpoints import reached
from contex_server.kernel.failures import AWAY, Failures
from contex_server.log.projects import REMAINS
from contex_server.log.tasks import Claims
from contex_server.projects.archiver import Archiver
from contex_server.tiers.master_keys import MasterKeys
from contex_server.tiers.storage import Storage

T = TypeVar("T")
log = structlog.get_logger(__name__)

_EVERYWHERE = "~keys"
"""Stands for all projects where the task is claimed: nobody can name it."""
_LOOK_S = 2.0
_USED_MS = 10_000
"""A process that was killed counts for this long as one that wraps with its key."""
_AGAIN_S = 300.0
"""After this, a pass that left keys behind is repeated."""
_KEYS = 200
_SIDE_BY_SIDE = 16


class Rewrapper:
    """Wraps the keys of all projects with the current master key.

    Args:
        archiver: None without an archive.
    """

    def __init__(self, storage: Storage, archiver: Archiver | None) -> None:
        self._storage = storage
        self._store = storage.store.keys
        self._archiver = archiver
        self._claims = Claims(storage.store.tasks, "rewrap")
        self._failures = Failures("rewrapping_failed")
        self._waits_for: set[bytes] = set()
        self._next = 0.0
        self._told_of = False
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts, if this process has a master key."""
        master = self._storage.sealer.master
        if master is not None:
            self._loop = asyncio.create_task(self._run(master), name="contex-rewrapper")

    async def close(self) -> None:
        """Stops; what is wrapped anew stays so."""
        if self._loop is None:
            return
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)
        await self._claims.give_all_back()
        master = self._storage.sealer.master
        assert master is not None
        try:
            await self._store.use_master(master.current_id, self._claims.owner, 0)
        except ContexError as error:
            log.debug("master_key_in_use", error=error.message)  # For `_USED_MS` more.

    async def _run(self, master: MasterKeys) -> None:
        while True:
            try:
                await self._look(master)
                self._failures.worked("")
            except ContexError as error:
                if error.reason not in AWAY:
                    self._failures.failed("", error)
            except Exception as error:
                self._failures.failed("", error)
            await asyncio.sleep(_LOOK_S)

    async def _look(self, master: MasterKeys) -> None:
        rotated, used = await self._store.use_master(
            master.current_id, self._claims.owner, _USED_MS
        )
        if not master.has_previous:
            return
        others = used - {master.current_id}
        if others != self._waits_for:
            self._waits_for = others
            if others:
                ids = sorted(each.hex() for each in others)
                log.info("master_key_rotation_waits", for_servers_with=ids)
        if rotated:
            self._tell(master)
        elif not others and time.monotonic() >= self._next:
            self._told_of = False
            if await self._claims.take(_EVERYWHERE):
                try:
                    await self._rewrap_all(master)
                finally:
                    await self._claims.give_back(_EVERYWHERE)

    def _tell(self, master: MasterKeys) -> None:
        """Says once that a rotation is over."""
        if not self._told_of:
            self._told_of = True
            log.info(
                "master_key_rotated",
                master_key=master.current_id.hex(),
                advice="no key needs the previous master key any more: unset "
                "CONTEX_PREVIOUS_MASTER_KEY_FILE",
            )

    async def _rewrap_all(self, master: MasterKeys) -> None:
        """One pass through all keys."""
        done, left, told = 0, 0, time.monotonic()
        async for project, stored in self._store.all_wrapped_keys(_KEYS):
            began = time.monotonic()
            outdated = {
                k: old for k, old in stored.items() if self._storage.sealer.is_outdated(old)
            }
            if not outdated or REMAINS in project:
                continue  # What is left of a deleted project is about to go.
            done_here = 0
            with self._failures.isolated(project):
                done_here = await self._rewrap(project, outdated)
            done, left = done + done_here, left + len(outdated) - done_here
            if time.monotonic() > told + _LOOK_S:
                told = time.monotonic()
                log.info("rewrapping", keys=done)
                await self._store.use_master(master.current_id, self._claims.owner, _USED_MS)
            await self._give_way(began)
        done_archived, left_archived = await self._rewrap_archived(master)
        left += left_archived
        log.info("rewrapped", keys=done, archived_keys=done_archived, left=left)
        if left:
            self._next = time.monotonic() + _AGAIN_S
            log.warning(
                "rewrapping_incomplete",
                keys=left,
                advice="the previous master key is still needed; see the failures logged before",
            )
            return
        await self._store.note_rotated(master.current_id)

    async def _rewrap(self, project: str, outdated: dict[bytes, bytes]) -> int:
        """Wraps some keys of a project anew; returns how many of them need nothing more."""
        sealer, archiver = self._storage.sealer, self._archiver
        fresh = dict[bytes, tuple[bytes, bytes]]()
        for key_id, stored in outdated.items():
            try:
                wrapped = sealer.rewrapped(key_id, stored)
            except ContexError as error:
                self._failures.failed(project, error)
                continue
            if wrapped is not None:
                fresh[key_id] = stored, wrapped
        if archiver is None:
            if (await self._storage.store.archive.archived(project)).directory:
                raise ContexError(
                    Reason.ARCHIVE_DISABLED,
                    "the project has keys in an archive, and the server has none",
                )
            await self._store.rewrap(project, fresh)
            return len(fresh)
        # Otherwise the archiver could store a key again as it was.
        async with archiver.task.exclusive(project, sweep=False):
            directory = (await self._storage.store.archive.archived(project)).directory
            keys = archiver.segments.keys
            for some in _in_parts([*fresh] if directory else []):
                names = [keys.name(directory, key_id) for key_id in some]
                await asyncio.gather(*(keys.rewrap(name, sealer.rewrapped) for name in names))
                await archiver.task.claim(project)
            reached("rewrapping")
            await self._claims.take(_EVERYWHERE)
            # One that was replaced meanwhile was destroyed.
            await self._store.rewrap(project, fresh)
        reached("rewrapped")
        return len(fresh)

    async def _rewrap_archived(self, master: MasterKeys) -> tuple[int, int]:
        """Wraps what else is in the archive, of projects that the store does not have or has lost;
        returns how many keys were wrapped anew, and how many could not be."""
        archiver, sealer = self._archiver, self._storage.sealer
        if archiver is None:
            return 0, 0
        done, left = 0, 0
        keys = archiver.segments.keys
        for project, names in groupby(await keys.names(), lambda name: name.partition("/")[0]):
            for some in _in_parts([*names]):
                began = time.monotonic()
                await self._claims.take(_EVERYWHERE)
                looks = await asyncio.gather(
                    *(keys.is_outdated(name, sealer.is_outdated) for name in some)
                )
                outdated = [name for name, is_old in zip(some, looks, strict=True) if is_old]
                if outdated:
                    done_here = 0
                    with self._failures.isolated(project):
                        async with archiver.task.exclusive(project, sweep=False):
                            for name in outdated:
                                await keys.rewrap(name, sealer.rewrapped)
                                done_here += 1
                    done, left = done + done_here, left + len(outdated) - done_here
                await self._store.use_master(master.current_id, self._claims.owner, _USED_MS)
                await self._give_way(began)
        return done, left

    async def _give_way(self, began: float) -> None:
        """Leaves others at least half of the time."""
        await asyncio.sleep(time.monotonic() - began)


def _in_parts(items: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(items), _SIDE_BY_SIDE):
        yield items[start : start + _SIDE_BY_SIDE]
