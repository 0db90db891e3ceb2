"""Batches the texts of callers that wait at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
from cachetools import LRUCache

from contex_server.matching.embedders.port import Vector

Compute = Callable[[list[str]], Awaitable[Sequence[Vector | Exception]]]
"""A vector, or why there is none, for each of these texts; or an exception for all."""
_UNHURRIED_SHARE = 4
"""A turn of texts that nobody waits for has this part of a full one, so that it soon ends."""
_TURNS_BETWEEN = 16
"""At least every so many turns such texts have theirs, however many others wait."""

_hurried: ContextVar[bool] = ContextVar("hurried", default=True)


@contextmanager
def unhurried() -> Iterator[None]:
    """What this task embeds inside of the block lets the texts of everybody else go first."""
    token = _hurried.set(False)
    try:
        yield
    finally:
        _hurried.reset(token)


class Batcher:
    """Gives each text to the model once, however many wait for it, in bounded turns.

    A turn takes one text of each waiting caller after the other, so that somebody with a
    thousand texts delays somebody with one by a turn at most. Callers in an `unhurried` block
    come when no others wait, in short turns.

    An instance belongs to one event loop at a time.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        texts_per_turn: int,
        chars_per_turn: int,
        concurrency: int = 1,
        cached_texts: int = 2_048,
    ) -> None:
        """Creates a batcher; no task runs while nobody waits.

        Args:
            compute: Embeds the texts of one turn, all different.
            texts_per_turn: Maximum number of texts in a turn.
            chars_per_turn: A turn that has reached this many characters is full.
            concurrency: Maximum number of concurrent turns.
            cached_texts: Number of recent texts whose vectors are kept.
        """
        self._compute = compute
        self._texts_per_turn = texts_per_turn
        self._chars_per_turn = chars_per_turn
        self._concurrency = concurrency
        self._recent: LRUCache[str, Vector] = LRUCache(cached_texts)
        self._jobs: dict[str, _Job] = {}
        self._callers: deque[deque[_Job]] = deque()
        self._unhurried: deque[deque[_Job]] = deque()
        self._turns = 0
        """Turns since one of unhurried callers."""
        self._workers: set[asyncio.Task[None]] = set()
        self._closed = False

    def is_recent(self, text: str) -> bool:
        """Whether the vector of a text is still cached."""
        return text in self._recent

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """The vectors of these texts, in their order; raises what `compute` did for one of them."""
        if self._closed:
            raise RuntimeError("the embedder is closed")
        rows: dict[str, Vector] = {}
        jobs: dict[str, _Job] = {}
        # By length, so that those of a turn make few runs: 3 % more texts a second.
        for text in sorted(dict.fromkeys(texts), key=len):
            recent = self._recent.get(text)
            if recent is not None:
                rows[text] = recent
                continue
            if text not in self._jobs:
                self._jobs[text] = _Job(text)
            jobs[text] = self._jobs[text]
            jobs[text].waiters += 1
        if jobs:
            callers = self._callers if _hurried.get() else self._unhurried
            callers.append(deque(job for job in jobs.values() if not job.taken))
            self._work()
            try:
                # Not gather: cancelling this caller must not cancel what others wait for.
                await asyncio.wait([job.done for job in jobs.values()])
            finally:
                for job in jobs.values():
                    job.waiters -= 1
            for text, job in jobs.items():
                rows[text] = job.done.result()
        return [rows[text] for text in texts]

    async def close(self) -> None:
        """Abandons the turns under way; texts that still wait fail."""
        self._closed = True
        workers = list(self._workers)
        for worker in workers:
            worker.cancel()
        if workers:
            await asyncio.wait(workers)

    def _work(self) -> None:
        # A worker starts after whoever else is ready to run, and takes their texts along.
        if len(self._workers) < self._concurrency:
            worker = asyncio.create_task(self._take_turns(), name="contex-embed")
            self._workers.add(worker)
            worker.add_done_callback(self._stopped)

    def _stopped(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not self._workers and (self._closed or worker.cancelled()):
            self._callers.clear()
            self._unhurried.clear()
            for job in self._jobs.values():
                job.fail(RuntimeError("the embedder was closed"))
            self._jobs.clear()
        elif self._callers or self._unhurried:
            self._work()

    async def _take_turns(self) -> None:
        while turn := self._next_turn():
            try:
                vectors = await self._compute([job.text for job in turn])
                for job, vector in zip(turn, vectors, strict=True):
                    if isinstance(vector, Exception):
                        job.fail(vector)
                    else:
                        self._recent[job.text] = vector
                        job.succeed(vector)
            except Exception as error:
                for job in turn:
                    job.fail(error)
            finally:
                for job in turn:
                    del self._jobs[job.text]
                    job.fail(RuntimeError("the embedder was closed"))

    def _next_turn(self) -> list[_Job]:
        """Texts that somebody still waits for; empty if there are none."""
        self._turns += 1
        texts, chars = self._texts_per_turn, self._chars_per_turn
        few, short = -(-texts // _UNHURRIED_SHARE), chars // _UNHURRIED_SHARE
        if self._unhurried and self._turns >= _TURNS_BETWEEN:
            turn = self._taken(self._unhurried, few, short)
        else:
            turn = self._taken(self._callers, texts, chars)
            if turn:
                return turn
            turn = self._taken(self._unhurried, few, short)
        self._turns = 0
        return turn or self._taken(self._callers, texts, chars)

    def _taken(self, callers: deque[deque[_Job]], texts: int, chars: int) -> list[_Job]:
        """Up to so many texts, or characters, of these callers."""
        turn: list[_Job] = []
        taken = 0
        while callers and len(turn) < texts and taken < chars:
            caller = callers.popleft()
            while caller:
                job = caller.popleft()
                if job.taken:
                    continue
                job.taken = True
                if job.waiters:
                    turn.append(job)
                    taken += len(job.text)
                    break
                del self._jobs[job.text]
            if caller:
                callers.append(caller)
        return turn


class _Job:
    """A text that one or more callers wait for."""

    __slots__ = ("done", "taken", "text", "waiters")

    def __init__(self, text: str) -> None:
        self.text = text
        self.waiters = 0
        self.taken = False
        self.done: asyncio.Future[Vector] = asyncio.get_running_loop().create_future()

    def succeed(self, vector: Vector) -> None:
        if not self.done.done():
            self.done.set_result(vector)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            # Looked at, so that asyncio does not complain where the callers have left.
            self.done.exception()


def stacked(rows: Sequence[Vector], dimension: int) -> Vector:
    """float32 [len(rows), dimension], also of no rows."""
    return np.stack(rows) if rows else np.empty((0, dimension), np.float32)
