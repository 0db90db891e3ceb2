"""`contex register`, `listen` and `agents`: what agents need, and what reaches them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias

import contex

from contex_cli import options
from contex_cli import output as out
from contex_cli.command import Session, command
from contex_cli.exits import ExitCode, complain
from contex_cli.indexing import indexing_shown, when_indexed
from contex_cli.matches import (
    data_fit,
    is_cut,
    need_lines,
    show_context,
    show_matches,
    show_missing,
    show_omitted,
)
from contex_cli.parameters import UsageError, argument, option
from contex_cli.records import picked
from contex_cli.times import ago_text, instant_text, length_text, parse_length, sequence_text

_BETWEEN = {contex.ContextFormat.JSON: "", contex.ContextFormat.YAML: "---\n"}
"""What keeps events apart that are written out one after another; a blank line in other formats."""
_ACKNOWLEDGE_EVERY_S = 0.5
_ACKNOWLEDGE_AT_EXIT_S = 5.0
_Reached: TypeAlias = tuple[str | None, str | None]
"""A cursor and a position of a stream."""


@dataclass(kw_only=True)
class Spec:
    """What a registration is made of, for `register` and `agents update`."""

    needs: tuple[str, ...] = option(
        (), "What the agent wants to know, in plain words. Repeatable.", "--need", "-n"
    )
    filters: tuple[str, ...] = options.FILTERS
    needs_file: str | None = options.NEEDS_FILE
    exclude: tuple[str, ...] = options.EXCLUDE
    threshold: float | None = options.THRESHOLD
    max_matches: int | None = option(
        None, "Data shown for each need, 1 to 100. [default: 10]", minimum=1, maximum=100
    )
    min_delta: options.MinDelta
    muted: options.Muted
    ttl: timedelta | None = option(
        None,
        "Let the agent expire when it has not registered, acknowledged or listened for so long: "
        "90s, 10m, 1h30m, 2d; 0s: never.",
        metavar="LENGTH",
        parse=parse_length,
    )
    max_context_tokens: int | None = options.MAX_TOKENS
    context_format: contex.ContextFormat | None = options.FORMAT

    def read_needs(self) -> list[str | contex.Need]:
        return options.read_needs(self.needs, self.needs_file, self.exclude, self.filters)

    def arguments(self) -> dict[str, Any]:
        names = ("threshold", "max_matches", "ttl", "max_context_tokens", "context_format")
        return {"min_delta": self.min_delta.value(), **vars(self.muted), **picked(self, *names)}

    def answer(self, session: Session, registration: contex.Registration) -> None:
        if self.context_format is not None and not session.json:
            show_context(registration.context, len(registration.data))
            show_missing(registration.omitted_count, out.remark)
            _tell_outcome(registration, out.remark)
        else:
            session.answer(registration, _show_registration)


@command("register")
async def register(
    session: Session,
    spec: Spec,
    agent_id: str = options.AGENT_ID,
    last_seen: str | None = option(
        None, "The last event the agent knows; 0: it wants everything.", metavar="SEQUENCE"
    ),
) -> None:
    """A registration of the same id is replaced."""
    needs = spec.read_needs()
    if not needs:
        raise UsageError("missing; or use --filter or --needs-file", "--need")
    registration = await when_indexed(
        session,
        lambda: session.client.register_agent(
            session.project, agent_id, needs, last_seen_sequence=last_seen, **spec.arguments()
        ),
    )
    spec.answer(session, registration)


@command("agents update")
async def update(session: Session, spec: Spec, agent_id: str = options.AGENT_ID) -> None:
    """New needs replace all old ones."""
    needs = spec.read_needs()
    if not needs and all(value is None for value in spec.arguments().values()):
        raise UsageError("nothing to change: give needs or another option")
    registration = await when_indexed(
        session,
        lambda: session.client.update_agent(
            session.project, agent_id, needs=needs or None, **spec.arguments()
        ),
    )
    spec.answer(session, registration)


def _show_registration(registration: contex.Registration) -> None:
    agent = registration.agent
    limits = {need.words: need.max_matches for need in agent.needs}
    show_matches(
        {
            need: matches[: limits.get(need) or agent.max_matches]
            for need, matches in registration.by_need().items()
        },
        is_cut=is_cut(registration.context),
    )
    count, context = len(registration.data), registration.context
    out.say(
        f"{out.plain(agent.agent_id)}: {data_fit(count, context)}, as of {registration.sequence}"
    )
    show_omitted(context, out.say, count)
    show_missing(registration.omitted_count, out.say)
    _tell_outcome(registration, out.say)


def _tell_outcome(registration: contex.Registration, tell: Callable[[str], None]) -> None:
    """Says that a registration changed nothing, if so."""
    if registration.outcome is contex.RegistrationOutcome.UNCHANGED:
        tell("nothing changed: it was registered like this already")


@command("agents")
async def agents(session: Session) -> None:
    """Without a subcommand it lists them. Options of a subcommand come after it."""
    columns: out.Columns[contex.Agent] = {
        "agent": "agent_id",
        "needs": lambda agent: out.plain("; ".join(need.words for need in agent.needs), 200),
        "threshold": "threshold",
        "registered": "registered_time",
        "acknowledged": "acknowledged_sequence",
        "unacknowledged": lambda agent: _count_text(agent.progress),
        "lag": lambda agent: _lag_text(agent.progress),
        "last contact": lambda agent: ago_text(agent.last_contact_time),
    }
    registered = session.client.list_agents(session.project)
    await options.Limit(0).show(registered, columns, "no agents", as_json=session.json)


@command("agents show")
async def show(session: Session, agent_id: str = options.AGENT_ID) -> None:
    session.answer(await session.client.get_agent(session.project, agent_id), _show_agent)


def _show_agent(agent: contex.Agent) -> None:
    names = ("agent_id", "needs", "threshold", "max_matches", "min_delta", "muted_kinds")
    times = ("registered_time", "updated_time", "acknowledged_sequence")
    out.show_rows(
        picked(agent, *names, "exclude_own", *times)
        | {
            "needs": out.styled("\n".join(_needs_with_ids(agent))),
            "threshold": str(agent.threshold),
            "min_delta": _updates(agent.min_delta),
            "muted_kinds": ", ".join(map(out.kind_text, agent.muted_kinds)) or "none",
            "exclude_own": "yes: its own events are not delivered" if agent.exclude_own else "no",
            "ttl": length_text(agent.ttl) if agent.ttl else "never expires",
            "last_contact_time": _contact_text(agent),
        }
        | _rights_rows(agent)
        | _progress_rows(agent.progress)
    )


def _rights_rows(agent: contex.Agent) -> dict[str, str]:
    """Whose it is, and what it may read; nothing of agents that are nobody's."""
    if not agent.identity:
        return {}
    readable = ", ".join(map(out.plain, agent.readable_data_keys)) or "all"
    return {
        "identity": out.plain(agent.identity),
        "readable_data_keys": "none" if agent.sees_nothing else readable,
    }


def _contact_text(agent: contex.Agent) -> str:
    time = agent.last_contact_time
    return "not known" if time is None else f"{instant_text(time)}, {ago_text(time)}"


def _count_text(progress: contex.AgentProgress | None) -> str:
    if progress is None:
        return ""
    more = "at least " if progress.has_more_unacknowledged else ""
    return f"{more}{progress.unacknowledged_count:,}"


def _lag_text(progress: contex.AgentProgress | None) -> str:
    if progress is None or not progress.unacknowledged_count:
        return ""
    return length_text(timedelta(milliseconds=progress.lag_ms))


def _progress_rows(progress: contex.AgentProgress | None) -> dict[str, Any]:
    """How far an agent is; an earlier server doesn't tell."""
    if progress is None:
        return {}
    lag = _lag_text(progress)
    deciding_lag = timedelta(milliseconds=progress.deciding_lag_ms)
    return {
        "unacknowledged": _count_text(progress) + (f", the oldest for {lag}" if lag else ""),
        "decided_sequence": sequence_text(progress.decided_sequence),
        "deciding": progress.deciding_state.value.replace("_", " ")
        + (f", {length_text(deciding_lag)} behind" if deciding_lag else ", up to date"),
    }


def _needs_with_ids(agent: contex.Agent) -> list[str]:
    """The needs, each with its id where the server tells it."""
    lines = zip(agent.needs, need_lines(agent), strict=True)
    return [f"{out.plain(need.id)}  {line}" if need.id else line for need, line in lines]


def _updates(min_delta: contex.MinDelta | None) -> str:
    if min_delta is None or not (min_delta.payload_changed or min_delta.json_pointers):
        return "all updates"
    if not min_delta.json_pointers:
        return "updates that change the payload"
    pointers = (pointer or "the whole" for pointer in min_delta.json_pointers)
    return f"updates that change {' or '.join(pointers)}"


@command("agents unregister")
async def unregister(session: Session, agent_id: str = options.AGENT_ID) -> None:
    sequence = await session.client.unregister_agent(session.project, agent_id)
    session.answer(
        {"agent_id": agent_id, "sequence": sequence},
        lambda _: out.print_line(f"{out.plain(agent_id)} unregistered  {sequence}"),
    )


@command("agents assign")
async def assign(
    session: Session,
    identity: str = argument(..., "IDENTITY", "Whose they are from now on."),
    agent_ids: str = argument(..., "AGENTS", "Ids, as a glob: 'billing-*'."),
    reassign: bool = option(False, "Also those that are another identity's."),
) -> ExitCode:
    """For agents that were registered while access was off, or that change hands."""
    count = await session.client.assign_agents(
        session.project, agent_ids, identity, reassign=reassign
    )
    session.answer(
        {"identity": identity, "assigned_count": count},
        lambda _: out.say(f"{out.counted(count, 'agent')} given to {out.plain(identity)}"),
    )
    if count:
        return ExitCode.OK
    whose = "" if reassign else " that is nobody's; --reassign gives also those of others"
    complain(f"project {session.project} has no agent {agent_ids}{whose}; see contex agents")
    return ExitCode.NOT_FOUND


@command("agents ack")
async def ack(
    session: Session,
    agent_id: str = options.AGENT_ID,
    sequence: str = argument(..., "SEQUENCE", "The last event it has dealt with."),
) -> None:
    acknowledged = await session.client.acknowledge(
        session.project, agent_id, sequence, timeout=session.timeout
    )
    session.answer(
        {"agent_id": agent_id, "acknowledged_sequence": acknowledged},
        lambda _: out.print_line(f"{out.plain(agent_id)} has acknowledged up to {acknowledged}"),
    )


@command("agents wait", timeout=30.0)
async def wait(
    session: Session,
    agent_id: str = options.AGENT_ID,
    sequence: str = argument(..., "SEQUENCE", "The event that it has to pass."),
    decided: bool = option(
        False, "Wait until it is decided what the agent gets up to there.", "--decided"
    ),
) -> None:
    """It has passed an event when it has nothing left to process up to there. --timeout says how
    long to wait; when that is over, the exit code is 6."""
    until = contex.WaitUntil.DECIDED if decided else contex.WaitUntil.ACKNOWLEDGED
    progress = await session.client.wait_for_agent(
        session.project, agent_id, sequence, until=until, timeout=session.timeout
    )
    session.answer(
        progress,
        lambda _: out.print_line(f"{out.plain(agent_id)} has passed {sequence}"),
    )


@command("listen")
async def listen(
    session: Session,
    agent_id: str = options.AGENT_ID,
    acknowledge: bool = option(
        False,
        "Acknowledge what was printed: the next listen goes on there. What a registration brought "
        "is acknowledged once all of its message was printed.",
        "--ack",
    ),
    after: str | None = option(
        None,
        "Start after this event; 0: the beginning. [default: the last acknowledged]",
        metavar="SEQUENCE",
    ),
    count: int | None = option(None, "Stop after this many events.", minimum=1),
    written: contex.ContextFormat | None = option(
        None, "Print each event written out for a prompt instead.", "--format"
    ),
    conflate: bool = option(
        False, "Of what it has missed, only the latest of each data key.", "--conflate"
    ),
) -> None:
    """Begins with what the agent has not acknowledged, and goes on until Ctrl-C. Each line says
    what has become of a datum: matched, updated, left, deleted, expired, erased or withheld.
    """
    session.follows = True
    client = session.client
    acknowledger: Acknowledger | None = None
    printed = 0
    try:
        opened = client.listen(
            session.project,
            agent_id,
            after_sequence=after,
            context_format=written,
            conflate=conflate,
            on_needs_changed=_tell_change,
            on_resync=_tell_resync,
        )
        async with indexing_shown(session), opened as stream:
            if acknowledge:
                acknowledger = Acknowledger(client, session.project, agent_id, stream)
            async for matched in stream:
                if session.json:
                    out.print_json(matched)
                elif written is not None and matched.kind is contex.MatchKind.WITHHELD:
                    key = out.plain(matched.event.data_key)
                    out.remark(f"withheld: {key} may no longer be read, so drop it")
                elif written is not None and not matched.context_omitted:
                    if matched.kind is contex.MatchKind.LEFT:
                        key = out.plain(matched.event.data_key)
                        out.remark(f"left: {key} meets the needs no longer; as it is now:")
                    if printed:
                        sys.stdout.write(_BETWEEN.get(written, "\n"))
                    sys.stdout.write(matched.context.rstrip("\n") + "\n")
                else:
                    if matched.context_omitted:
                        out.remark("cut: too large for a message when written out; as it is:")
                    out.print_parts(out.matched_parts(matched))
                out.flush()
                if acknowledger is not None:
                    acknowledger.note()
                printed += 1
                if printed == count:
                    return
    finally:
        if acknowledger is not None:
            await acknowledger.close()


def _tell_change(changed: contex.NeedsChanged) -> None:
    out.remark(
        f"the registration was changed: {out.counted(len(changed.agent.needs), 'need')}; "
        "what that brings follows"
    )


def _tell_resync(resync: contex.Resync) -> None:
    remark = f"only the latest of each data key: {resync.superseded_count:,} earlier left out"
    if resync.dropped_count:
        remark += f", and {resync.dropped_count:,} of events without a data key"
    out.remark(remark)


class Acknowledger:
    """Acknowledges what was printed of a stream, at most twice a second, and at the end."""

    def __init__(
        self,
        client: contex.AsyncClient,
        project: str,
        agent_id: str,
        stream: contex.Subscription[contex.MatchedEvent],
    ) -> None:
        self._acknowledge_up_to = partial(client.acknowledge, project, agent_id)
        self._stream = stream
        self._printed: _Reached = (None, None)
        self._acknowledged: _Reached = (None, None)
        self._task = asyncio.create_task(self._run())

    def note(self) -> None:
        """Notes that everything that the stream handed out has reached the reader."""
        self._printed = (self._stream.cursor, self._stream.position)

    async def close(self) -> None:
        """Acknowledges the rest.

        Raises:
            contex.Unavailable: The server does not answer.
        """
        self._task.cancel()
        await asyncio.wait([self._task])
        try:
            async with asyncio.timeout(_ACKNOWLEDGE_AT_EXIT_S):
                await self._acknowledge()
        except TimeoutError:
            raise contex.Unavailable(
                "what was printed last could not be acknowledged: it comes again"
            ) from None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_ACKNOWLEDGE_EVERY_S)
            self.note()  # Nothing is being printed, and the stream may have moved on.
            try:
                await self._acknowledge()
            except contex.ContexError as error:
                # The stream tells what is wrong, or the next attempt succeeds.
                out.remark(f"not acknowledged yet: {error}")

    async def _acknowledge(self) -> None:
        """The position is further than the cursor inside of a message; neither moves back."""
        (cursor, position), (last_cursor, last_position) = self._printed, self._acknowledged
        if position is not None and position != last_position:
            await self._acknowledge_up_to(position)
        if cursor is not None and cursor != last_cursor:
            await self._acknowledge_up_to(cursor=cursor)
        self._acknowledged = (cursor, position)
