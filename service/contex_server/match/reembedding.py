"""Moves projects to the configured embedding model, and from relative scores to absolute ones.

Embeds everything anew beside the old vectors, then switches; whatever else there is to embed goes
first. One process of the deployment does it for a project, starting when the project is used.
Until then the old model serves, where it is available. The switch is an event of the log, so that
every process swaps its index at the same place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import orjson
import structlog

from contex_server.kernel import event_codec
from contex_server.kernel.backoff import Backoff
from contex_server.kernel.failures import Failures
from contex_server.kernel.model import MODEL_CHANGED, Sequence
from contex_server.log.port import EventLog
from contex_server.log.store import Store
from contex_server.log.tasks import Claims
from contex_server.match.agent_codec import intact
from contex_server.matching.agent_needs import in_words
from contex_server.matching.embedders.batcher import unhurried
from contex_server.matching.embeddings import Embeddings

log = structlog.get_logger(__name__)

_TASK = "embedding"
_HOLD_MS = 30_000
_BATCH = 32
_AGENTS_PAGE = 100
_BACKOFF_S = (1.0, 30.0)
_Texts = dict[bytes, str | Sequence]
"""By digest: a need's text, or the sequence of a datum's event."""


@dataclass(slots=True)
class ReembeddingProgress:
    """How many of a project's texts are embedded under the new model."""

    done: int = 0
    total: int = 0


class Reembedding:
    """Embeds projects anew with the configured model."""

    def __init__(self, event_log: EventLog, store: Store, embeddings: Embeddings) -> None:
        self._log = event_log
        self._store = store
        self._embeddings = embeddings
        self._claims = Claims(store.tasks, _TASK, hold_ms=_HOLD_MS)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failures = Failures("reembedding_interrupted")

    def start_if_outdated(self, project: str) -> None:
        """Re-embeds a project in the background if its model is not the configured one."""
        if project not in self._tasks:
            task = asyncio.create_task(self._run(project), name=f"contex-reembed-{project}")
            self._tasks[project] = task
            task.add_done_callback(lambda _: self._tasks.pop(project, None))

    async def close(self) -> None:
        """Stops; another process, or the next start, continues where this one was."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def progress(self, project: str) -> ReembeddingProgress:
        """How far a project is; both numbers are equal if there is nothing to do."""
        target = self._embeddings.models.configured_id
        progress = ReembeddingProgress()
        if await self._store.match.model(project) in ("", target):
            return progress
        async for texts in self._texts(project):
            progress.total += len(texts)
            missing = await self._store.match.missing_vectors(project, target, texts)
            progress.done += len(texts) - len(missing)
        return progress

    async def _run(self, project: str) -> None:
        target = self._embeddings.models.configured_id
        backoff = Backoff(*_BACKOFF_S)
        while True:
            try:
                current = await self._store.match.model(project)
                if current in ("", target):
                    return
                try:
                    if await self._embed_all(project, current, target):
                        return
                finally:
                    await self._claims.give_back(project)
                backoff.reset()
                self._failures.worked(project)
            except Exception as error:
                self._failures.failed(project, error)
            await backoff.wait()

    async def _embed_all(self, project: str, current: str, target: str) -> bool:
        """Embeds what is missing, then switches the model. False if another process does it."""
        if not await self._claims.take(project):
            return False
        log.info("reembedding", project=project, model=target, instead_of=current)
        done = 0
        while True:
            missing = 0
            async for texts in self._texts(project):
                for start in range(0, len(texts), _BATCH):
                    if not await self._claims.take(project):
                        return False
                    part = dict(list(texts.items())[start : start + _BATCH])
                    fresh = await self._embed(project, target, part)
                    missing += fresh
                    done += fresh
                    if fresh:
                        log.info("reembedding_progress", project=project, texts=done)
            if not missing:
                break  # Nothing was published since the last pass.
        body = event_codec.encode(
            MODEL_CHANGED, orjson.dumps({"model": target, "previous": current}), {}
        )
        sequence = await self._store.match.change_model(
            project, current, target, MODEL_CHANGED, body
        )
        if sequence is not None:
            self._embeddings.model_changed(project, target)
            log.info("reembedded", project=project, model=target, texts=done)
        return True

    async def _embed(self, project: str, target: str, texts: _Texts) -> int:
        with unhurried():  # What is published or asked meanwhile goes first.
            return await self._embed_missing(project, target, texts)

    async def _embed_missing(self, project: str, target: str, texts: _Texts) -> int:
        missing = await self._store.match.missing_vectors(project, target, texts)
        needs = {d: text for d in missing if isinstance(text := texts[d], str)}
        sequences = [s for d in missing if isinstance(s := texts[d], Sequence)]
        found = await self._embeddings.of_needs(project, target, needs, store=False)
        entries = await self._log.get(project, sequences)
        events = [event_codec.decode(entry) for entry in entries if entry is not None]
        # Stored under the log's digest, even if this version would compute another one.
        found |= await self._embeddings.of_events(project, target, events, store=False)
        # Also what this process has cached: another one may have dropped it from the store.
        await self._embeddings.put(project, target, found)
        return len(needs) + len(events)

    async def _texts(self, project: str) -> AsyncIterator[_Texts]:
        """Every text of a project."""
        async for states in self._store.state.state(project):
            yield {s.digest: s.sequence for s in states if not s.deleted and s.digest}
        after = ""
        while page := await self._store.agents.agents(project, after, _AGENTS_PAGE):
            agents = [agent for agent, _ in intact(project, page)]
            worded = [need for agent in agents for _, need in in_words(agent.needs)]
            yield {need.digest: need.text for need in worded}
            after = page[-1].agent_id
