"""Agents' verdicts on matches: recorded as events of the log, exported as a training set."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson

from contex_server.kernel import event_codec
from contex_server.kernel.errors import invalid_field
from contex_server.kernel.model import (
    MATCH_FEEDBACK,
    Append,
    Entry,
    Event,
    Match,
    Need,
    NewEvent,
    Origin,
    Range,
    need_id_of,
)
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.kernel.scope import Scope
from contex_server.kernel.slices import sliced
from contex_server.log.pages import pages
from contex_server.log.port import EventLog
from contex_server.match.queries import MatchQueries
from contex_server.match.service_events import readable_feedback
from contex_server.matching.describe import text_digest

_PAGE_EVENTS = 1_000
_RECENT = ("need_id", "exact")


Sees = Callable[[Iterable[str]], Awaitable[set[str]]]
"""Tells which of some agents a caller may see."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One verdict on a match."""

    sequence: LogSequence  # of the match_feedback event
    agent_id: str
    need: str
    event: Entry  # that was judged
    match: Match  # as it was scored when it was judged
    useful: bool
    comment: str


class Feedback:
    """Records and exports feedback."""

    def __init__(self, log: EventLog, queries: MatchQueries) -> None:
        self._log = log
        self._queries = queries

    async def record(
        self,
        project: str,
        agent_id: str,
        sequence: LogSequence,
        need_index: int,
        need: Need,
        *,
        useful: bool,
        comment: str,
        request_id: str,
        origin: Origin,
        scope: Scope,
    ) -> LogSequence:
        """Records a verdict, with the score that the match has now; see `RecordFeedback`.

        Args:
            need_index: Where the need was in the registration that the event matched.

        Raises:
            ContexError: EVENT_NOT_FOUND; INVALID_FIELD if the need is a filter.
        """
        if need.filter is not None:
            problem = f"need {need_index} of agent {agent_id!r} is a filter: no score to judge"
            raise invalid_field("need_index", problem)
        explained = await self._queries.explain(
            project, need, data_key="", sequence=sequence, as_of=None, scope=scope
        )
        match = explained.explanation.match._replace(need_index=need_index)._asdict()
        match["background_as_of"] = str(match["background_as_of"])
        for name in _RECENT:  # Earlier versions read no more than they wrote.
            del match[name]
        payload = orjson.dumps(
            {
                "agent_id": agent_id,
                "sequence": str(sequence),
                "data_key": explained.event.data_key,
                "need": need.text,
                "useful": useful,
                "comment": comment,
                "match": match,
            }
        )
        body = event_codec.encode(MATCH_FEEDBACK, payload, {})
        event = NewEvent(body, event_type=MATCH_FEEDBACK)
        append = Append(project, [event], request_id, origin=origin)
        appended = await self._log.append(append)
        if appended.duplicate and not await self._is_seen(project, appended.first, agent_id, scope):
            # Always the same one, which no client can choose.
            append.request_id = f"{request_id}~{scope.digest}"
            appended = await self._log.append(append)
        return appended.first

    async def _is_seen(
        self, project: str, sequence: LogSequence, agent_id: str, scope: Scope
    ) -> bool:
        """Whether what a request id stands for already is a verdict that the caller may see."""
        if scope.is_open:
            return True
        (entry,) = await self._log.get(project, [sequence])
        record = None if entry is None else readable_feedback(event_codec.decode(entry))
        return (
            record is not None
            and record["agent_id"] == agent_id
            and scope.admits(record["data_key"])
        )

    async def export(
        self, project: str, span: Range, scope: Scope, sees: Sees | None = None
    ) -> AsyncGenerator[list[Judgement], None]:
        """The verdicts in a range, in log order.

        Skips verdicts that are damaged, and those on events that can no longer be read.

        Args:
            sees: Which agents the caller may see; None: all.

        Raises:
            ContexError: SEQUENCE_TRIMMED, STORE_UNAVAILABLE.
        """
        source = pages(self._log, project, span, max_events=_PAGE_EVENTS)
        async with aclosing(source):
            async for page in source:
                events = [event_codec.decode(entry) async for entry in sliced(page.entries)]
                records = [(e, r) for e in events if (r := readable_feedback(e))]
                judged = await self._log.get(
                    project, [LogSequence.parse(record["sequence"]) for _, record in records]
                )
                seen = None
                if sees is not None:
                    seen = await sees({record["agent_id"] for _, record in records})
                judgements = [
                    _judgement(event, record, entry, counted=scope.is_open)
                    async for (event, record), entry in sliced(zip(records, judged, strict=True))
                    if entry is not None
                    and event_codec.is_admitted(entry, scope)
                    and (seen is None or record["agent_id"] in seen)
                ]
                if judgements:
                    yield judgements


def _judgement(event: Event, record: dict[str, Any], judged: Entry, *, counted: bool) -> Judgement:
    fields = record["match"] if counted else {**record["match"], "background_passages": 0}
    as_of = LogSequence.parse(fields["background_as_of"])
    need_id = need_id_of(text_digest(record["need"]))
    return Judgement(
        event.sequence,
        record["agent_id"],
        record["need"],
        judged,
        Match(**{**fields, "background_as_of": as_of, "need_id": need_id}),
        record["useful"],
        record["comment"],
    )
