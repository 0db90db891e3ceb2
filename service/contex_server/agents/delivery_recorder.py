"""Records what agents are sent, before it is sent.

What an agent has received is therefore on record even if the server was killed. What was recorded
but lost on the way is sent again, and recorded as a resend. Messages of the same moment share a
write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import uuid4

import structlog

from contex_server.events.stream import Kind
from contex_server.inbox.hub import Sender
from contex_server.kernel.backoff import Backoff
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failures import Failures
from contex_server.kernel.model import Agent, Event, Match, Origin, Sequence
from contex_server.log.agents import JournalStore, Sending, Sent, SentEvent

log = structlog.get_logger(__name__)

_ANSWER = "answer"
"""The kind of a message, as stored; the names are those of `contex.v1.DeliveryKind`."""
_BACKOFF_S = (0.05, 2.0)
_MAX_EVENTS = 256
"""Maximum number of events in a note; longer messages are split."""
_CLOSE_S = 2.0


class _Waiting(NamedTuple):
    """Messages that wait to be recorded."""

    project: str
    messages: tuple[Sent, ...]
    sendings: tuple[Sending, ...]
    repeated: bool
    future: asyncio.Future[bool]


class DeliveryRecorder:
    """Records deliveries for all streams of a process."""

    def __init__(self, store: JournalStore, *, enabled: bool) -> None:
        self.store = store
        self.enabled = enabled
        self._waiting: list[_Waiting] = []
        self._wake = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self._failures = Failures("recording_failed")
        self._task = asyncio.create_task(self._run(), name="contex-recorder")

    async def close(self) -> None:
        """Writes what is pending, then stops."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await asyncio.gather(*self.tasks)
        self._task.cancel()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(self._task, *self.tasks, return_exceptions=True)

    async def answered(
        self, project: str, agent: Agent, data: Iterable[tuple[Event, tuple[Match, ...]]]
    ) -> None:
        """Records the data of a response.

        Raises:
            ContexError: STORE_UNAVAILABLE; then the response must not be given.
        """
        events = tuple(_sent_event(event, matches) for event, matches in data)
        if self.enabled and events:
            position = max(event.sequence for event in events)
            await self.record(project, _split(agent, position, events))

    def stream(
        self,
        project: str,
        agent_id: str,
        origin: Origin,
        *,
        apart: bool = False,
        consumes: bool = False,
    ) -> StreamRecorder:
        """Records a new stream of an agent."""
        apart = apart or consumes
        return StreamRecorder(self, project, agent_id, origin, apart, consumes)

    async def record(
        self,
        project: str,
        messages: Iterable[Sent] = (),
        sendings: Iterable[Sending] = (),
        *,
        repeated: bool = False,
    ) -> bool:
        """Waits until something is recorded; raises as `answered`. False if the store is full."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(project, tuple(messages), tuple(sendings), repeated, future))
        self._wake.set()
        return await future

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            # One turn of the loop, so that streams woken by the same events share the write.
            await asyncio.sleep(0)
            self._wake.clear()
            waiting, self._waiting = self._waiting, []
            by_project: dict[str, list[_Waiting]] = {}
            for item in waiting:
                by_project.setdefault(item.project, []).append(item)
            await asyncio.gather(*map(self._note, by_project.keys(), by_project.values()))

    async def _note(self, project: str, several: list[_Waiting]) -> None:
        pending = [item for item in several if not item.future.done()]
        error: Exception | None = None
        recorded = True
        try:
            await self.store.note_sent(
                project, [message for item in pending for message in item.messages]
            )
            await self.store.note_sending(
                project,
                [sending for item in pending for sending in item.sendings],
                repeated=any(item.repeated for item in pending),
            )
        except ContexError as refused:
            if refused.reason is Reason.STORE_FULL:
                # Streams go on when the store takes no writes.
                recorded = False
                log.warning("deliveries_unrecorded", project=project, messages=len(pending))
            else:
                error = refused
        except Exception as failure:
            self._failures.failed(project, failure)
            error = ContexError(Reason.INTERNAL, f"recording failed: {type(failure).__name__}")
        for item in pending:
            if not item.future.done():
                if error is None:
                    item.future.set_result(recorded)
                else:
                    item.future.set_exception(error)


@dataclass(slots=True)
class StreamRecorder:
    """Records one stream of an agent.

    Attributes:
        apart: What lies between its deliveries is left out.
        consumes: What it is sent comes in no order, and may come again.
        sender: What is on record of it. What is sent as soon as it is decided is noted with the
            decision; the rest is noted here. What the store had no room for is noted with what
            comes next.
    """

    recorder: DeliveryRecorder
    project: str
    agent_id: str
    origin: Origin
    apart: bool = False
    consumes: bool = False
    sender: Sender = field(default_factory=lambda: Sender(uuid4().hex[:16]))
    _opened: bool = False
    _left: list[Sending] = field(default_factory=list)
    """What the store had no room for, if it is `apart`."""

    async def opened(self, start: Sequence, position: Sequence) -> None:
        """Records that the stream was opened after an event, at a place of the inbox."""
        self.sender.noted = position
        if self.recorder.enabled:
            await self._note(start)
            self._opened = True

    def closed(self) -> None:
        """Records in the background that the stream has ended."""
        if self._opened:
            task = asyncio.create_task(self._closed(), name="contex-stream-closed")
            self.recorder.tasks.add(task)
            task.add_done_callback(self.recorder.tasks.discard)

    async def sending(self, places: SequenceOf[Sequence]) -> None:
        """Records what is about to be sent in a message; waits while the store is away."""
        sender = self.sender
        sender.sending_since = asyncio.get_running_loop().time()
        if not self.recorder.enabled or not places:
            return
        upto = places[-1]
        if upto <= sender.noted and not self.consumes:
            return
        spans = [(sender.noted, upto)]
        if self.apart:
            spans = [(place.prev(), place) for place in places]
        made = [Sending(self.agent_id, sender.stream_id, *span) for span in spans]
        sendings = [*self._left, *made]
        backoff = Backoff(*_BACKOFF_S)
        while True:
            try:
                noted = await self.recorder.record(
                    self.project, sendings=sendings, repeated=sender.unsure
                )
            except ContexError as error:
                if error.reason is not Reason.STORE_UNAVAILABLE:
                    raise
                await backoff.wait()
                sender.unsure = True
            else:
                # Of several, some may be noted where the store had no room for all.
                sender.unsure = not noted
                if noted or self.apart:
                    sender.noted = upto
                    self._left = [] if noted else sendings
                return

    def sent(self, kind: Kind) -> None:
        """That a message was sent."""
        self.sender.sending_since = None
        if kind is Kind.CAUGHT_UP:
            self.sender.live = self._opened and not self.apart
        elif kind is Kind.FELL_BEHIND:
            self.sender.live = False

    async def _closed(self) -> None:
        with suppress(ContexError):
            await self._note(None)

    async def _note(self, start: Sequence | None) -> None:
        try:
            await self.recorder.store.note_stream(
                self.project, self.agent_id, self.sender.stream_id, start, self.origin
            )
        except ContexError as error:
            if error.reason is not Reason.STORE_FULL:
                raise
            log.warning("stream_unrecorded", project=self.project, agent_id=self.agent_id)


def _split(agent: Agent, position: Sequence, events: tuple[SentEvent, ...]) -> list[Sent]:
    needs = tuple(need.text for need in agent.needs)
    return [
        Sent(
            agent.agent_id,
            "",
            index,
            _ANSWER,
            agent.updated_ms,
            position,
            needs,
            events[start : start + _MAX_EVENTS],
        )
        for index, start in enumerate(range(0, len(events), _MAX_EVENTS))
    ]


def _sent_event(event: Event, matches: tuple[Match, ...]) -> SentEvent:
    return SentEvent(
        event.sequence,
        event.data_key,
        event.revision,
        event.deletes,
        tuple((match.need_index, match.score) for match in matches),
    )
