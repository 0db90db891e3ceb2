"""`contex consume`, `parked`, `agents lag` and `agents seek`: deliveries as a work queue."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, TypeAlias

import contex

from contex_cli import options
from contex_cli import output as out
from contex_cli.command import Session, command
from contex_cli.exits import InputError
from contex_cli.parameters import UsageError, argument, option
from contex_cli.records import encode, picked, record
from contex_cli.times import (
    Place,
    ago_text,
    length_text,
    parse_length,
    parse_place,
    sequence_text,
)

_PARK = 65
"""The exit code that parks a delivery: EX_DATAERR of sysexits.h."""
_Lag: TypeAlias = tuple[contex.Agent, contex.ConsumerGroup]


class Outcome(Enum):
    """What became of a delivery that a command was run for."""

    ACKNOWLEDGED = "acknowledged"
    RETRIED = "retried"
    PARKED = "parked"
    LOST = "lost"


@command("consume")
async def consume(
    session: Session,
    agent_id: str = options.AGENT_ID,
    words: tuple[str, ...] = argument((), "COMMAND", "What to run for each, after --."),
    consumer: str | None = option(
        None, "Who consumes: a name of one process at a time. [default: a new one]", metavar="NAME"
    ),
    concurrency: int = option(1, "Commands that run at a time.", minimum=1, maximum=500),
    until_idle: bool = option(
        False, "End when there is nothing to be had now. Later retries are not waited for."
    ),
    ack_deadline: timedelta | None = option(
        None,
        "How soon others get what this process has if it is gone. [default: 30s]",
        metavar="LENGTH",
        parse=parse_length,
    ),
    max_attempts: int | None = option(
        None, "Attempts after which a delivery is parked. [default: 10]", minimum=1, maximum=1000
    ),
) -> None:
    """Each delivery goes to one of the agent's consumers. Without a command it is printed as
    listen does, and acknowledged. A command gets the delivery as JSON on its standard input, and as
    CONTEX_PROJECT, CONTEX_TARGET, CONTEX_AGENT, CONTEX_CONSUMER, CONTEX_DELIVERY_ID,
    CONTEX_SEQUENCE, CONTEX_DATA_KEY, CONTEX_REVISION, CONTEX_EVENT_TYPE, CONTEX_KIND,
    CONTEX_ATTEMPT and CONTEX_REDRIVEN. Its exit code says what has become of the delivery: 0 it is
    done, 65 it is to be parked, any other it is to come again, a while later. Ctrl-C and SIGTERM
    let commands that run come to their end; the second time they are ended.
    """
    session.follows = True
    if words and shutil.which(words[0]) is None:
        raise InputError(f"can't run {words[0]!r}: there is no such command")
    stream = session.client.consume(
        session.project,
        agent_id,
        consumer=consumer,
        max_outstanding_messages=2 * concurrency if words else 64,
        ack_deadline=ack_deadline or timedelta(seconds=30),
        max_attempts=max_attempts,
        until_idle=until_idle,
    )
    async with stream as deliveries:
        if words:
            handle = _Runner(session, agent_id, deliveries.consumer, words).run
            work = deliveries.run(handle, concurrency=concurrency)
        else:
            work = _print_all(session, deliveries)
        task = asyncio.ensure_future(work)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await deliveries.drain()
            try:
                await asyncio.shield(task)
            finally:  # perhaps it was cancelled once more
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            raise
        finally:
            if any(picked(deliveries.missed, *_MISSED).values()):
                out.remark(f"missed: {_missed_text(deliveries.missed)}")


_MISSED = ("superseded_count", "dropped_count", "removed_count")


async def _print_all(session: Session, deliveries: contex.DeliveryStream) -> None:
    async for delivery in deliveries:
        if session.json:
            out.print_json(_record(delivery))
        else:
            out.print_parts(out.matched_parts(delivery.matched))
        out.flush()


def _record(delivery: contex.ClaimedDelivery) -> dict[str, Any]:
    claim = picked(delivery, "delivery_id", "attempt", "redriven")
    return record(delivery.matched) | claim


class _Runner:
    """Runs a command for each delivery."""

    def __init__(
        self, session: Session, agent_id: str, consumer: str, words: tuple[str, ...]
    ) -> None:
        self._session = session
        self._words = _ending_with_this_process(words)
        self._variables = {
            "CONTEX_PROJECT": session.project,
            "CONTEX_TARGET": session.target,
            **session.tls_variables,
            "CONTEX_AGENT": agent_id,
            "CONTEX_CONSUMER": consumer,
        }
        if session.api_key_file:
            self._variables["CONTEX_API_KEY_FILE"] = os.path.abspath(session.api_key_file)

    async def run(self, delivery: contex.ClaimedDelivery) -> None:
        """Runs it for one, and says what has become of that."""
        code = await self._exit_code(delivery)
        try:
            outcome = await _settle(delivery, code)
        except contex.ClaimLost:
            outcome = Outcome.LOST
        event = delivery.event
        if self._session.json:
            out.print_json(
                picked(delivery, "delivery_id", "attempt")
                | picked(event, "sequence", "data_key")
                | {"exit_code": code, "outcome": outcome.value}
            )
            out.flush()
        elif outcome is not Outcome.ACKNOWLEDGED:
            name = out.plain(event.data_key or event.sequence)
            out.remark(f"{name}, attempt {delivery.attempt}: exit code {code}, {_TOLD[outcome]}")

    async def _exit_code(self, delivery: contex.ClaimedDelivery) -> int:
        event = delivery.event
        about = {
            "CONTEX_DELIVERY_ID": delivery.delivery_id,
            "CONTEX_SEQUENCE": event.sequence,
            "CONTEX_DATA_KEY": event.data_key,
            "CONTEX_REVISION": str(event.revision),
            "CONTEX_EVENT_TYPE": event.event_type,
            "CONTEX_KIND": "" if delivery.kind is None else delivery.kind.value,
            "CONTEX_ATTEMPT": str(delivery.attempt),
            "CONTEX_REDRIVEN": "1" if delivery.redriven else "",
        }
        process = await asyncio.create_subprocess_exec(
            *self._words,
            stdin=asyncio.subprocess.PIPE,
            env={**os.environ, **self._variables, **about},
            process_group=0,  # Ctrl-C is for this process alone
        )
        try:
            await process.communicate(encode(_record(delivery)))
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
            raise
        return process.returncode or 0


def _ending_with_this_process(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words of a command that is killed with this process, where Linux's setpriv is at hand: it
    would go on with what another consumer has by then."""
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "KILL", "--", *words) if setpriv else words


_TOLD = {
    Outcome.RETRIED: "comes again",
    Outcome.PARKED: "parked",
    Outcome.LOST: "but others may have it by now",
}


async def _settle(delivery: contex.ClaimedDelivery, code: int) -> Outcome:
    if code == 0:
        await delivery.ack()
        return Outcome.ACKNOWLEDGED
    if code == _PARK:
        try:
            await delivery.park(f"exit code {code}")
        except contex.ResourceExhausted as error:
            out.remark(error.message)
        else:
            return Outcome.PARKED
    await delivery.nack()
    return Outcome.RETRIED


@command("parked list")
async def parked_list(
    session: Session, limit: options.Limit, agent_id: str = options.AGENT_ID
) -> None:
    """Those that were parked first come first."""
    columns: out.Columns[contex.ParkedDelivery] = {
        "parked id": "parked_id",
        "parked": "parked_time",
        "data key": lambda parked: parked.matched.event.data_key,
        "sequence": lambda parked: parked.matched.event.sequence,
        "attempts": "attempts",
        "by": "consumer",
        "why": lambda parked: out.plain(parked.reason, 200) or _cause_text(parked.cause),
        "payload": lambda parked: out.payload_preview(parked.matched.event),
    }
    found = session.client.parked(session.project, agent_id, page_size=limit.page_size)
    await limit.show(found, columns, "nothing is parked", as_json=session.json)


def _cause_text(cause: contex.ParkCause) -> str:
    return cause.value.replace("_", " ")


_IDS = argument((), "PARKED_ID", "Which, as parked list shows them.")
_ALL = option(False, "All that are parked.", "--all")


@command("parked redrive")
async def parked_redrive(
    session: Session,
    agent_id: str = options.AGENT_ID,
    ids: tuple[str, ...] = _IDS,
    all_parked: bool = _ALL,
) -> None:
    """They come again as first attempts."""
    _check_which(ids, all_parked)
    count = await session.client.redrive(session.project, agent_id, ids or None)
    session.answer(
        {"agent_id": agent_id, "redriven_count": count},
        lambda _: out.print_line(f"{out.counted(count, 'delivery')} on the way again"),
    )


@command("parked drop")
async def parked_drop(
    session: Session,
    agent_id: str = options.AGENT_ID,
    ids: tuple[str, ...] = _IDS,
    all_parked: bool = _ALL,
) -> None:
    """They do not come any more. Their events stay in the log."""
    _check_which(ids, all_parked)
    count = await session.client.drop_parked(session.project, agent_id, ids or None, all=all_parked)
    session.answer(
        {"agent_id": agent_id, "dropped_count": count},
        lambda _: out.print_line(f"{out.counted(count, 'delivery')} given up"),
    )


def _check_which(ids: tuple[str, ...], all_parked: bool) -> None:
    if bool(ids) is all_parked:
        raise UsageError("give the ids, or --all instead of them", "PARKED_ID")


@command("agents lag")
async def lag(
    session: Session,
    agent_id: str | None = argument(None, "AGENT", "The agent's id."),
) -> None:
    """Of one agent, its consumers and what blocks it, too. Deliveries are outstanding from when a
    consumer, or the queue of their data key, has them until they are settled.
    """
    if agent_id is not None:
        agent = await session.client.get_agent(session.project, agent_id)
        one = agent, await session.client.consumer_group(session.project, agent_id)
        if session.json:
            out.print_json(_lag_record(one))
        else:
            _show_lag(one)
        return
    columns: out.Columns[_Lag] = {
        "agent": lambda lag: lag[0].agent_id,
        "behind": lambda lag: _behind(lag[1]),
        "backlog": lambda lag: _backlog(lag[1]),
        "outstanding": lambda lag: lag[1].outstanding_count,
        "delayed": lambda lag: lag[1].delayed_count,
        "waiting": lambda lag: lag[1].waiting_count,
        "parked": lambda lag: lag[1].parked_count,
        "consumers": lambda lag: len(lag[1].consumers),
        "acknowledged": lambda lag: lag[0].acknowledged_sequence,
    }
    if session.json:
        async for one in _all_lags(session):
            out.print_json(_lag_record(one))
    else:
        await options.Limit(0).show(_all_lags(session), columns, "no agents", as_json=False)


async def _all_lags(session: Session) -> AsyncIterator[_Lag]:
    async for agent in session.client.list_agents(session.project):
        with suppress(contex.NotFound):  # it has left meanwhile
            yield agent, await session.client.consumer_group(session.project, agent.agent_id)


def _lag_record(lag: _Lag) -> dict[str, Any]:
    agent, group = lag
    decided = "" if agent.progress is None else agent.progress.decided_sequence
    names = picked(agent, "agent_id", "acknowledged_sequence")
    return names | {"decided_sequence": decided} | record(group)


def _behind(group: contex.ConsumerGroup) -> str:
    return length_text(timedelta(milliseconds=group.lag_ms)) if group.lag_ms else ""


def _backlog(group: contex.ConsumerGroup) -> str:
    return f"{'at least ' if group.has_more_backlog else ''}{group.backlog_count:,}"


def _missed_text(missed: contex.Missed) -> str:
    return (
        f"{missed.superseded_count:,} that a later one stands for, {missed.dropped_count:,} of "
        f"events without a data key, {missed.removed_count:,} that were outstanding"
    )


def _show_lag(lag: _Lag) -> None:
    agent, group = lag
    decided = "" if agent.progress is None else agent.progress.decided_sequence
    missed = any(picked(group.missed, *_MISSED).values())
    out.show_rows(
        {
            "agent_id": agent.agent_id,
            "acknowledged": sequence_text(agent.acknowledged_sequence),
            "handed out": sequence_text(group.position_sequence),
            "decided": sequence_text(decided),
            "behind": _behind(group) or "nothing",
            "backlog": _backlog(group),
            "outstanding": f"{group.outstanding_count:,}",
            "delayed": f"{group.delayed_count:,} wait for a retry, or for a consumer",
            "waiting": f"{group.waiting_count:,} wait for an earlier one of their data key",
            "parked": f"{group.parked_count:,}",
            **({"missed": _missed_text(group.missed)} if missed else {}),
        }
    )
    if group.consumers:
        consumers: out.Columns[contex.Consumer] = {
            "consumer": "name",
            "outstanding": "outstanding_count",
            "oldest for": lambda one: (
                length_text(timedelta(milliseconds=one.oldest_outstanding_ms))
                if one.outstanding_count
                else ""
            ),
            "last contact": lambda one: ago_text(one.last_contact_time),
        }
        out.show_table(group.consumers, consumers)
    if group.blocked_keys:
        keys: out.Columns[contex.BlockedKey] = {
            "blocked key": "data_key",
            "waiting": "waiting_count",
            "for": "sequence",
            "attempt": "attempt",
            "with": lambda key: key.consumer or "nobody",
        }
        out.show_table(group.blocked_keys, keys)


def _position(text: str) -> Place:
    return text if text in ("beginning", "end") else parse_place(text)


@command("agents seek")
async def seek(
    session: Session,
    agent_id: str = options.AGENT_ID,
    place: Place = argument(
        ...,
        "POSITION",
        "After this sequence, from this time on, or beginning or end.",
        parse=_position,
    ),
) -> None:
    """The beginning is that of the agent's inbox. What consumers have is cleared: they lose it. The
    agent's durable cursor moves along.
    """
    if isinstance(place, int):
        place = datetime.fromtimestamp(place / 1_000, UTC)
    where: dict[str, Any] = {"after_sequence": place}
    if isinstance(place, datetime):
        where = {"from_time": place}
    elif place in ("beginning", "end"):
        where = {"start": place}
    moved = await session.client.seek_consumers(session.project, agent_id, **where)
    session.answer(
        record(moved) | {"agent_id": agent_id},
        lambda _: out.print_line(
            f"{out.plain(agent_id)} goes on after {moved.position_sequence}; "
            f"{moved.cleared_count:,} were outstanding"
        ),
    )
