"""`contex listen`: what reaches an agent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from contex_server.cli import options
from contex_server.cli.output import (
    error_console,
    flush,
    matched_line,
    matched_record,
    print_json,
    print_line,
)
from contex_server.cli.running import run

if TYPE_CHECKING:
    from contex import AsyncClient, MatchedEvent

_ACKNOWLEDGE_EVERY_S = 0.5
_ACKNOWLEDGE_AT_EXIT_S = 5.0


def listen(
    agent_id: options.AgentId,
    acknowledge: Annotated[
        bool,
        typer.Option("--ack", help="Acknowledge what was printed: the next listen goes on there."),
    ] = False,
    after: Annotated[
        str | None,
        typer.Option(
            metavar="SEQUENCE",
            help="Start after this event; 0: the beginning. [default: the last acknowledged]",
        ),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many events.")] = None,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Print what matches an agent's needs, as it arrives.

    Begins with what the agent has not acknowledged, and goes on until Ctrl-C.
    """

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            # A stream would wait for a server that was never there.
            await client.get_agent(project, agent_id)
            acknowledger = Acknowledger(client, project, agent_id) if acknowledge else None
            try:
                await _listen(client, project, agent_id, after, count, as_json, acknowledger)
            finally:
                if acknowledger is not None:
                    await acknowledger.close()

    run(work(), follows=True)


async def _listen(
    client: AsyncClient,
    project: str,
    agent_id: str,
    after: str | None,
    count: int | None,
    as_json: bool,
    acknowledger: Acknowledger | None,
) -> None:
    printed = 0
    async with client.listen(project, agent_id, after_sequence=after) as stream:
        async for matched in stream:
            if as_json:
                print_json(matched_record(matched))
            else:
                print_line(matched_line(matched))
            flush()
            if acknowledger is not None:
                acknowledger.printed(matched)
            printed += 1
            if printed == count:
                return


class Acknowledger:
    """Acknowledges the newest event that was printed, at most twice a second, and at the end."""

    def __init__(self, client: AsyncClient, project: str, agent_id: str) -> None:
        self._client = client
        self._project = project
        self._agent_id = agent_id
        self._newest: MatchedEvent | None = None
        self._acknowledged: MatchedEvent | None = None
        self._task = asyncio.create_task(self._run())

    def printed(self, matched: MatchedEvent) -> None:
        """Notes that an event has reached the reader."""
        self._newest = matched

    async def close(self) -> None:
        """Acknowledges the rest."""
        self._task.cancel()
        await asyncio.wait([self._task])
        async with asyncio.timeout(_ACKNOWLEDGE_AT_EXIT_S):
            await self._acknowledge()

    async def _run(self) -> None:
        from contex import ContexError

        while True:
            await asyncio.sleep(_ACKNOWLEDGE_EVERY_S)
            try:
                await self._acknowledge()
            except ContexError as error:
                # The stream tells what is wrong, or the next attempt succeeds.
                error_console().print(f"not acknowledged yet: {error}", markup=False)

    async def _acknowledge(self) -> None:
        newest = self._newest
        if newest is None or newest is self._acknowledged:
            return
        await self._client.acknowledge(self._project, self._agent_id, newest)
        self._acknowledged = newest
