"""The agents' side of the demo: one subscription each, and what reached it when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Self

from contex import AsyncClient, MatchedEvent, Subscription

from contex_demo.verification import HELD_KINDS, Delivered

_HEARTBEAT_MS = 1_000
_POLL_S = 0.01


@dataclass(slots=True)
class Listener:
    """One agent that listens, and what it received."""

    agent_id: str
    subscription: Subscription[MatchedEvent]
    delivered: list[Delivered] = field(default_factory=list)
    held: dict[str, MatchedEvent] = field(default_factory=dict)

    async def run(self) -> None:
        async for matched in self.subscription:
            arrived, event = time.monotonic(), matched.event
            kind = matched.kind.name.lower() if matched.kind is not None else ""
            matched.apply_to(self.held)
            self.delivered.append(
                Delivered(
                    event.sequence, event.data_key, event.revision, kind, arrived, matched.score
                )
            )


class Listeners:
    """Agents that listen, each from a cursor on or at its own, as an async context manager."""

    def __init__(self, client: AsyncClient, project: str, starts: Mapping[str, str | None]) -> None:
        self.all = [
            Listener(
                agent_id,
                client.listen(
                    project, agent_id, cursor=cursor, heartbeat_interval_ms=_HEARTBEAT_MS
                ),
            )
            for agent_id, cursor in starts.items()
        ]
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        for listener in self.all:
            await self._stack.enter_async_context(listener.subscription)
            self._tasks.append(asyncio.create_task(listener.run()))
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    @property
    def deliveries(self) -> int:
        return sum(len(listener.delivered) for listener in self.all)

    async def until_caught_up(self, timeout: float) -> float:
        """Waits until all have everything that was in the log; returns the seconds that took."""
        started = time.monotonic()
        async with asyncio.timeout(timeout):
            while not all(listener.subscription.caught_up for listener in self.all):
                self.raise_failures()
                await asyncio.sleep(_POLL_S)
        return time.monotonic() - started

    async def until_quiet(self, quiet: float, timeout: float) -> None:
        """Waits until nothing has arrived for `quiet` seconds, at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        count, since = self.deliveries, time.monotonic()
        while (now := time.monotonic()) < deadline and now - since < quiet:
            self.raise_failures()
            await asyncio.sleep(_POLL_S)
            if self.deliveries != count:
                count, since = self.deliveries, time.monotonic()

    def of(self, agent_id: str) -> Listener:
        """The one that is this agent."""
        return next(listener for listener in self.all if listener.agent_id == agent_id)

    def raise_failures(self) -> None:
        """Raises the error of a subscription that has ended with one."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def received(self, sequence: str, since: float) -> list[tuple[str, float, float]]:
        """Who received an event, after how many milliseconds from `since`, with which score.

        Without those that it told that a datum is gone.
        """
        received = []
        for listener in self.all:
            newest_first = reversed(listener.delivered)
            delivery = next((d for d in newest_first if d.sequence == sequence), None)
            if delivery is not None and delivery.kind in HELD_KINDS:
                ms = (delivery.arrived - since) * 1000
                received.append((listener.agent_id, ms, delivery.score))
        return sorted(received, key=lambda receipt: receipt[1])
