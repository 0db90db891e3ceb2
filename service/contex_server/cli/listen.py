"""`contex listen`: what reaches an agent."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from contex_server.cli import options
from contex_server.cli.output import error_console, flush, matched_line, print_json, print_line
from contex_server.cli.records import matched_record
from contex_server.cli.running import run

if TYPE_CHECKING:
    from contex import AsyncClient, NeedsChanged

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
    chosen_format: Annotated[
        options.Format | None,
        typer.Option("--format", help="Print each event written out for a prompt instead."),
    ] = None,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Print what matches an agent's needs, as it arrives.

    Begins with what the agent has not acknowledged, and goes on until Ctrl-C. Where its needs are
    changed meanwhile, what matches now and did not before is printed next.
    """

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            # A stream would wait for a server that was never there.
            await client.get_agent(project, agent_id)
            acknowledger = Acknowledger(client, project, agent_id) if acknowledge else None
            try:
                await _listen(
                    client, project, agent_id, after, count, chosen_format, as_json, acknowledger
                )
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
    chosen_format: options.Format | None,
    as_json: bool,
    acknowledger: Acknowledger | None,
) -> None:
    printed = 0
    async with client.listen(
        project,
        agent_id,
        after_sequence=after,
        context_format=options.context_format(chosen_format),
        on_needs_changed=_tell_change,
    ) as stream:
        async for matched in stream:
            if as_json:
                print_json(matched_record(matched))
            elif chosen_format is not None:
                sys.stdout.write(matched.context.rstrip("\n") + "\n")
            else:
                print_line(matched_line(matched))
            flush()
            if acknowledger is not None:
                # What a change of the needs brings is older than the position, which stays.
                acknowledger.printed(
                    stream.position, cursor=stream.cursor if matched.backfilled else None
                )
            printed += 1
            if printed == count:
                return


def _tell_change(changed: NeedsChanged) -> None:
    count = len(changed.agent.needs)
    error_console().print(
        f"the registration was changed: {count} need{'s' if count != 1 else ''}; "
        f"{len(changed.data)} data match now and did not before",
        markup=False,
    )


class Acknowledger:
    """Acknowledges what was printed, at most twice a second, and at the end."""

    def __init__(self, client: AsyncClient, project: str, agent_id: str) -> None:
        self._client = client
        self._project = project
        self._agent_id = agent_id
        self._newest: tuple[str | None, str | None] = (None, None)
        self._acknowledged: tuple[str | None, str | None] = (None, None)
        self._task = asyncio.create_task(self._run())

    def printed(self, position: str | None, *, cursor: str | None = None) -> None:
        """Notes up to where what the stream brought has reached the reader.

        Args:
            position: The stream's position.
            cursor: A cursor of the stream at or after it, to be acknowledged instead.
        """
        self._newest = (None if cursor is not None else position, cursor)

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
        if newest == self._acknowledged:
            return
        position, cursor = newest
        await self._client.acknowledge(self._project, self._agent_id, position, cursor=cursor)
        self._acknowledged = newest
