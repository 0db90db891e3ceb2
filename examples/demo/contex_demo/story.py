"""The steps of the demo, each on a real server with the ordinary client."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from contex import AsyncClient, NewEvent, Registration

from contex_demo.corpus import AgentPlan, Corpus, Document
from contex_demo.expected import Expected, Missed, expected_answers, missed, undelivered
from contex_demo.figures import NOTES, Figures, percentiles
from contex_demo.journal import Journal, Logged
from contex_demo.listeners import Listeners
from contex_demo.rendering import View
from contex_demo.server import ServerProcess
from contex_demo.verification import (
    Delivered,
    DeliveryFindings,
    check_deliveries,
    check_log,
    hit_rates,
    same_deliveries,
    stale,
)

PROJECT = "demo"
PUBLISHER = "contex-demo"
TIMEOUT_S = 180.0
"""A call's limit, retries included: longer than the server is away."""

_DOCUMENT_BATCH = 16
_DOCUMENT_WINDOW = 2
"""Every document is embedded before it is appended: more in flight would only wait."""
_REGISTRATIONS_AT_ONCE = 4
_EXPLAINED = 100
"""Most expected answers whose absence is explained."""
_TIMED_DATA = 50
_TIMED_PAUSE_S = 0.02
_STREAMED_DATA = 200
_STREAM_BATCH = 10
_STREAM_WINDOW = 16
_KILL_AFTER = 0.4
_QUIET_S = 1.0
SETTLE_S = 120.0
"""How long what was published may take to reach everybody; on a busy machine it does."""
_READERS_AT_ONCE = 8


S = TypeVar("S")
T = TypeVar("T")


class StoryFailed(Exception):
    """The story can't go on; `str()` says why."""


class Story:
    """One run on a server that is not started; `events` are streamed while it is killed."""

    def __init__(
        self,
        client: AsyncClient,
        corpus: Corpus,
        server: ServerProcess,
        view: View,
        *,
        events: int,
        threshold: float | None,
    ) -> None:
        self._client = client
        self._corpus = corpus
        self._server = server
        self._view = view
        self._events = events
        self._threshold = threshold
        self._random = random.Random(0)  # the same run each time
        self._journal = Journal()
        self._editions: Counter[str] = Counter()
        self._registrations: dict[str, Registration] = {}
        self._matched_keys: set[str] = set()
        self._killed_ms = 0
        self._online = ""
        self._notes: list[Document] = []
        self.figures = Figures(corpus=corpus.name, agents=len(corpus.agents), needs=corpus.needs)

    async def run(self) -> Figures:
        """Tells the story from the first start to the verdict; the server need not be up yet."""
        started = time.monotonic()
        figures = self.figures
        self._view.step("Start a server on the built-in store")
        figures.start = await self._server.start()
        self._view.say(f"{self._server.target} serves after {figures.start:.1f} s")

        late = _held_back(self._corpus)
        await self._publish_documents(
            [d for d in self._corpus.documents if d.data_key != late.data_key]
        )
        await self._register_agents()

        self._view.step(f"{len(self._corpus.agents)} agents listen")
        starts = {name: answer.cursor for name, answer in self._registrations.items()}
        async with Listeners(self._client, PROJECT, starts) as self._listeners:
            joined = await self._listeners.until_caught_up(SETTLE_S)
            self._view.say(f"all are live after {joined * 1000:.0f} ms")
            await self._update_one()
            self._view.step(f"Add a datum that nobody knew before: {late.data_key}")
            self._view.received(await self._publish_and_watch(late))
            await self._publish_notes()
            await self._time_deliveries()
            await self._kill_in_the_middle()
            await self._ask_what_they_knew()
            await self._change_notes()
            await self._come_back()
            await self._verify(starts)
        figures.stop = await self._server.stop()
        figures.total = time.monotonic() - started
        return figures

    async def _publish_documents(self, documents: list[Document]) -> None:
        count = len(documents)
        self._view.step(f"Publish {count:,} documents: {self._corpus.name}")
        self.figures.documents = count
        started = time.monotonic()
        drafts = map(self._journal.draft, documents)
        async for _ in self._stream("published", count, drafts, _DOCUMENT_BATCH, _DOCUMENT_WINDOW):
            pass
        self.figures.publish = time.monotonic() - started
        self._view.say(
            f"on disk and described by vectors in {self.figures.publish:.1f} s "
            f"({count / self.figures.publish:.0f} documents/s)"
        )

    async def _stream(
        self, verb: str, total: int, drafts: Iterator[NewEvent], batch: int, window: int
    ) -> AsyncGenerator[int]:
        """Publishes events in batches, notes the receipts and yields how many each batch had."""
        sent: deque[list[NewEvent]] = deque()

        def noted() -> Iterator[list[NewEvent]]:
            while events := list(islice(drafts, batch)):
                sent.append(events)
                yield events

        with self._view.progress(verb, total) as advance:
            async with self._client.publish_stream(PROJECT, noted(), window=window) as results:
                async for result in results:
                    if result.error is not None:
                        raise result.error
                    self._journal.acknowledge(sent.popleft(), result.receipts)
                    if result.duplicate:
                        self.figures.repeated += len(result.receipts)
                    advance(len(result.receipts))
                    yield len(result.receipts)

    async def _register_agents(self) -> None:
        agents = self._corpus.agents
        self._view.step(f"Register {len(agents)} agents with {self._corpus.needs:,} needs")
        started = time.monotonic()

        async def register(agent: AgentPlan) -> Registration:
            needs = [need.text for need in agent.needs]
            return await self._client.register_agent(
                PROJECT, agent.agent_id, needs, threshold=self._threshold
            )

        answers = await self._each("registered", agents, register, _REGISTRATIONS_AT_ONCE)
        self.figures.register = time.monotonic() - started
        self._registrations = {
            agent.agent_id: answer for agent, answer in zip(agents, answers, strict=True)
        }
        self._online = max(agents, key=lambda agent: len(self._of(agent).data)).agent_id
        twin = next(agent for agent in agents if agent.agent_id == self._online)
        await register(replace(twin, agent_id=self._offline))
        figures = self.figures
        ranked = []
        for agent in agents:
            by_need = self._registrations[agent.agent_id].by_need()
            for need in agent.needs:
                keys = [matched.event.data_key for matched, _ in by_need[need.text]]
                ranked.append((need, keys))
                figures.matched_needs += bool(keys)
                figures.matches += len(keys)
                self._matched_keys.update(keys)
        figures.matched_data = len(self._matched_keys)
        published = frozenset(key for key, _ in self._journal.published.values())
        figures.hits = hit_rates(ranked, published)
        self._view.matches(self._corpus, self._registrations, figures)
        self._view.say(
            f"{self._offline} has the needs of {self._online}, and stays away until the end"
        )
        await self._explain_missed(published)

    def _of(self, agent: AgentPlan) -> Registration:
        return self._registrations[agent.agent_id]

    @property
    def _offline(self) -> str:
        """The agent that has the same needs as another one, and does not listen."""
        return f"{self._online}-away"

    async def _explain_missed(self, published: frozenset[str]) -> None:
        """Says of every expected answer that was not delivered what its score is, and why."""
        figures = self.figures
        expected = expected_answers(self._corpus.agents, published)
        absent = list(undelivered(expected, self._registrations))
        figures.answers_expected = len(expected)
        figures.answers_delivered = len(expected) - len(absent)

        async def explain(one: Expected) -> Missed:
            registration = self._registrations[one.agent_id]
            explanation = await self._client.explain(
                PROJECT,
                agent_id=one.agent_id,
                need_index=one.need_index,
                data_key=one.data_key,
                as_of=registration.sequence,
            )
            return missed(one, explanation, registration.agent.max_matches)

        figures.missed = await self._each(
            "explained", absent[:_EXPLAINED], explain, _REGISTRATIONS_AT_ONCE
        )
        self._view.missed(figures)

    async def _each(
        self, verb: str, items: Sequence[S], work: Callable[[S], Awaitable[T]], at_once: int
    ) -> list[T]:
        """Works on all items, some at once, and shows how far it is."""
        limit = asyncio.Semaphore(at_once)

        async def one(item: S) -> T:
            async with limit:
                result = await work(item)
            advance(1)
            return result

        with self._view.progress(verb, len(items)) as advance:
            return await asyncio.gather(*map(one, items))

    async def _update_one(self) -> None:
        """Updates the datum that the most agents were matched with."""
        scores: dict[str, dict[str, float]] = {}
        for name, registration in self._registrations.items():
            for matched in registration.data:
                scores.setdefault(matched.event.data_key, {})[name] = matched.score
        if not scores:
            raise StoryFailed("no need matches any document: nothing would be delivered")
        key = max(scores, key=lambda key: (len(scores[key]), max(scores[key].values())))
        best = max(scores[key], key=lambda name: scores[key][name])
        document = next(d for d in self._corpus.documents if d.data_key == key)
        self._view.step(f"Update a datum: {key}")
        received = await self._publish_and_watch(self._next_edition(document))
        self.figures.update_reached_best = best in {name for name, _, _ in received}
        self._view.received(received)

    async def _publish_and_watch(self, document: Document) -> list[tuple[str, float, float]]:
        started = time.monotonic()
        sequence = await self._publish_one(document)
        await self._listeners.until_quiet(_QUIET_S, SETTLE_S)
        return self._listeners.received(sequence, started)

    async def _publish_notes(self) -> None:
        """Three data that the two agents with the same needs want."""
        needs = self._registrations[self._online].agent.needs
        self._notes = [
            Document(f"note/{number}", needs[0].text, {"note": needs[0].text, "number": number})
            for number in range(1, len(NOTES) + 1)
        ]
        self._view.step(f"Publish {len(self._notes)} notes for {self._online}: {needs[0].text}")
        sequences = [await self._publish_one(note) for note in self._notes]
        await self._listeners.until_quiet(_QUIET_S, SETTLE_S)
        self._view.told(self._online, self._told(sequences))

    async def _change_notes(self) -> None:
        """One is updated, one is about something else from now on, one is deleted."""
        self._view.step("Update a note, change the subject of another, delete the third")
        updated, left, deleted = self._notes
        other = replace(left, description="Lorem ipsum dolor sit amet", data={"sky": "clear"})
        sequences = [
            await self._publish_one(self._next_edition(updated)),
            await self._publish_one(other),
            await self._publish_draft(self._journal.deletion(deleted.data_key)),
        ]
        await self._listeners.until_quiet(_QUIET_S, SETTLE_S)
        self.figures.told = self._told(sequences)
        self._view.told(self._online, self.figures.told)

    def _told(self, sequences: Sequence[str]) -> dict[str, str]:
        """What the agent that is online was told by some events, by data key."""
        delivered = self._listeners.of(self._online).delivered
        return {d.data_key: d.kind for d in delivered if d.sequence in sequences}

    async def _come_back(self) -> None:
        """The agent that was away gets what the one with the same needs got as it happened."""
        self._view.step(f"{self._offline} comes back")
        figures, online = self.figures, self._listeners.of(self._online)
        async with Listeners(self._client, PROJECT, {self._offline: None}) as alone:
            await alone.until_caught_up(SETTLE_S)
            offline = alone.all[0].delivered
        figures.online, figures.offline = len(online.delivered), len(offline)
        figures.same = same_deliveries(online.delivered, offline)
        counts = [Counter(d.kind for d in each) for each in (online.delivered, offline)]
        self._view.twins((self._online, counts[0]), counts[1])
        same = (
            "the same deliveries in the same order" if figures.same else "NOT the same deliveries"
        )
        self._view.say(f"both have {same}")

    async def _publish_one(self, document: Document) -> str:
        return await self._publish_draft(self._journal.draft(document))

    async def _publish_draft(self, draft: NewEvent) -> str:
        receipts = await self._client.publish_batch(PROJECT, [draft])
        self._journal.acknowledge([draft], receipts)
        return receipts[0].sequence

    async def _time_deliveries(self) -> None:
        """Measures from the call of publish to each delivery, one event at a time."""
        somebody_needs = [d for d in self._corpus.documents if d.data_key in self._matched_keys]
        chosen = self._random.sample(somebody_needs, min(_TIMED_DATA, len(somebody_needs)))
        self._view.step(f"Time the deliveries of {2 * len(chosen)} updates, one at a time")
        # The first update of a datum changes the text that describes it; the second only a number.
        for into in (self.figures.delivery_new_ms, self.figures.delivery_known_ms):
            sent = []
            for document in chosen:
                started = time.monotonic()
                sequence = await self._publish_one(self._next_edition(document))
                sent.append((sequence, started))
                await asyncio.sleep(_TIMED_PAUSE_S)
            await self._listeners.until_quiet(_QUIET_S, SETTLE_S)
            for sequence, started in sent:
                into += [ms for _, ms, _ in self._listeners.received(sequence, started)]
        self._view.say(f"known text: {percentiles(self.figures.delivery_known_ms)}")
        self._view.say(f"new text, embedded first: {percentiles(self.figures.delivery_new_ms)}")

    def _next_edition(self, document: Document) -> Document:
        self._editions[document.data_key] += 1
        data = document.data if isinstance(document.data, dict) else {"value": document.data}
        return replace(document, data={**data, "edition": self._editions[document.data_key] + 1})

    async def _kill_in_the_middle(self) -> None:
        figures, journal = self.figures, self._journal
        self._view.step(f"Stream {self._events:,} updates and kill -9 the server in the middle")
        before = len(journal.acknowledged)
        delivered_before = self._listeners.deliveries
        acknowledged = 0
        started = time.monotonic()
        last = 0.0
        restart: asyncio.Task[float] | None = None
        try:
            updates = self._stream(
                "acknowledged", self._events, self._updates(), _STREAM_BATCH, _STREAM_WINDOW
            )
            async with aclosing(updates) as acknowledgements:
                async for count in acknowledgements:
                    acknowledged += count
                    if restart is not None:
                        # Some acknowledgements were on their way when the server died.
                        figures.outage = max(figures.outage, time.monotonic() - last)
                        last = time.monotonic()
                    elif acknowledged >= self._events * _KILL_AFTER:
                        last = time.monotonic()
                        self._killed_ms = time.time_ns() // 1_000_000
                        self._server.kill()
                        figures.acknowledged_before_kill = acknowledged
                        figures.unanswered_at_kill = len(journal.published) - len(
                            journal.acknowledged
                        )
                        restart = asyncio.create_task(self._server.start())
            if restart is None:
                raise StoryFailed("the stream ended before the server was killed")
            figures.restart = await restart
        finally:
            if restart is not None and not restart.done():
                restart.cancel()
        figures.stream = time.monotonic() - started
        figures.streamed = len(journal.acknowledged) - before
        await self._listeners.until_quiet(_QUIET_S, SETTLE_S)
        self._view.killed(figures, self._listeners.deliveries - delivered_before)

    def _updates(self) -> Iterator[NewEvent]:
        documents = self._corpus.documents
        chosen = self._random.sample(documents, min(_STREAMED_DATA, len(documents)))
        for _ in range(self._events):
            yield self._journal.draft(self._next_edition(self._random.choice(chosen)))

    async def _ask_what_they_knew(self) -> None:
        """What was on record when the server died, and whether it is what was received."""
        self._view.step("Ask what the agents knew when the server was killed")
        stale = known = pending = 0
        for name in self._registrations:
            context = await self._client.agent_context(
                PROJECT, name, as_of=self._killed_ms, omit_payloads=True
            )
            known += len(context.known)
            stale += sum(datum.stale for datum in context.known)
            pending += len(context.pending)
        self._view.say(
            f"{known:,} data had been sent to them, {stale:,} of these were out of date by then, "
            f"and {pending:,} that matched had not been sent"
        )
        for listener in self._listeners.all:
            on_record = {
                delivery.sequence
                async for delivery in self._client.deliveries(
                    PROJECT, agent_id=listener.agent_id, page_size=1_000
                )
            }
            received = {delivered.sequence for delivered in listener.delivered}
            self.figures.unrecorded += len(received - on_record)

    async def _verify(self, starts: dict[str, str]) -> None:
        figures, listeners = self.figures, self._listeners
        self._view.step("Compare the log and every agent's deliveries with what they must be")
        async with self._client.replay(PROJECT) as stream:
            log = [Logged.of(event) async for event in stream]
        figures.log_entries = len(log)
        figures.published = len(self._journal.published)
        figures.acknowledged = len(self._journal.acknowledged)
        figures.log = check_log(log, self._journal, len(self._corpus.agents) + 1)

        async def read(name: str) -> list[Delivered]:
            """The deliveries once more, by a new stream, to its end."""
            async with Listeners(self._client, PROJECT, {name: starts[name]}) as alone:
                await alone.until_caught_up(SETTLE_S)
                return alone.all[0].delivered

        readings = await self._each("agents read again", list(starts), read, _READERS_AT_ONCE)
        again = dict(zip(starts, readings, strict=True))
        # Until the listeners have as much as the second reading, and stragglers.
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline and any(
            len(listener.delivered) < len(again[listener.agent_id]) for listener in listeners.all
        ):
            listeners.raise_failures()
            await asyncio.sleep(0.02)
        await listeners.until_quiet(_QUIET_S, SETTLE_S)

        by_sequence = {entry.sequence: entry for entry in log}
        total = DeliveryFindings()
        for listener in listeners.all:
            total += check_deliveries(listener.delivered, again[listener.agent_id], by_sequence)
            held = {key: matched.event.revision for key, matched in listener.held.items()}
            figures.held += len(held)
            figures.stale += stale(held, log)
        figures.kinds = dict(Counter(d.kind for each in listeners.all for d in each.delivered))
        figures.delivery = total
        figures.deliveries = listeners.deliveries
        figures.deliveries_expected = sum(map(len, again.values()))
        figures.reconnects = sum(bool(one.subscription.reconnects) for one in listeners.all)


def _held_back(corpus: Corpus) -> Document:
    """The document that is published only after the agents have registered.

    The answer of the last need that has one, so that somebody waits for it.
    """
    by_key = {document.data_key: document for document in corpus.documents}
    needs = [need for agent in corpus.agents for need in agent.needs]
    answers = (key for need in reversed(needs) for key in sorted(need.answers) if key in by_key)
    return by_key[next(answers, corpus.documents[-1].data_key)]
