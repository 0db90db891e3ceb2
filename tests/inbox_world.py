"""Random histories of a project with agents, each listening in its own way; see inbox_model.py."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from contex.v1 import agent_service_pb2, event_pb2, project_service_pb2
from contex_server.tiers.sealer import FRESH_S
from google.protobuf.duration_pb2 import Duration

from tests.inbox_model import (
    ERASED,
    NEEDS_CHANGED,
    Filter,
    Inbox,
    Score,
    Spec,
    Told,
    fold,
    inboxes,
    met,
    near,
    told,
)
from tests.integration.support import (
    DEADLINE_S,
    AcknowledgeRequest,
    Api,
    P,
    RegisterAgentRequest,
    Stream,
    UnregisterAgentRequest,
    UpdateAgentRequest,
    event,
    eventually,
    order,
)

Need = agent_service_pb2.Need
MinDelta = agent_service_pb2.MinDelta

KEYS = ("k1", "k2", "k3", "k4", "k5")
KINDS = ("UPDATED", "LEFT", "DELETED", "EXPIRED")
SUBJECTS = ("anna", "ben")
"""Persons whose data some events hold, and which are erased."""
FILTERS = (
    Filter(keys=("k1", "k2")),
    Filter(keys=("*4",)),
    Filter(types=("note",)),
    Filter(keys=("k3", "*5"), types=("data_published", "data_expired")),
    Filter(publishers=("one", "cur")),
)
SCORES = "scores"
"""A project of its own."""

Got = tuple[Told, tuple[float, ...] | None]
"""A delivery, with its scores."""


@dataclass(frozen=True)
class Vocabulary:
    """What is published, and needed with which thresholds."""

    texts: tuple[str, ...]
    needs: tuple[str, ...]
    thresholds: tuple[float, ...]


async def scores(api: Api, words: Vocabulary) -> Score:
    """What each text scores with each need: the same everywhere, as there is no background."""
    texts = {f"k{n}": text for n, text in enumerate(words.texts)}
    await api.publish(
        *(event(k, json.dumps({"t": text, "n": 0, "m": 0}).encode()) for k, text in texts.items()),
        project=SCORES,
    )
    found: dict[tuple[str, str], float] = {}
    for number, need in enumerate(words.needs):
        answer = await api.register(
            f"a{number}", need, project=SCORES, threshold=1e-6, max_matches=100
        )
        for datum in answer.data:
            found[need, texts[datum.event.data_key]] = datum.matches[0].score
    lowest = [t - min(0.05, t / 3) for t in words.thresholds]
    levels = (*words.thresholds, *lowest)
    assert [p for p, s in found.items() if any(abs(s - t) < 2e-3 for t in levels)] == []
    return lambda need, text: found.get((need, text), 0.0)


def kinds(names: frozenset[str]) -> list[event_pb2.MatchKind]:
    return [event_pb2.MatchKind.Value(f"MATCH_KIND_{name}") for name in sorted(names)]


def got(message: Any) -> list[Got]:
    """What a message delivers."""
    if message.HasField("needs_changed"):
        return [(Told(NEEDS_CHANGED), ())]
    return [
        (told(item), tuple(round(m.score, 4) for m in item.matches))
        for item in message.events.events
    ]


def all_got(stream: Stream) -> list[Got]:
    return [each for message in stream.messages for each in got(message)]


class Reader:
    """Listens to one registration as an agent does that is like this.

    Attributes:
        role: "online", "cursor" (reconnects with its last cursor), "conflating" (likewise, and has
            what it missed conflated) or "acknowledging" (reconnects without a cursor).
        registration: The number of the registration that it begins with.
        after: What it asked for with that, of an inbox that it had; None: all of it.
        sessions: What each stream brought; and for acknowledging ones, which messages had been
            acknowledged before: (session, entries of it) or a sequence.
    """

    def __init__(
        self, world: World, agent_id: str, cursor: str, registration: int, after: str | None
    ) -> None:
        self.world, self.agent_id, self.role = world, agent_id, (role := world.roles[agent_id])
        self.registration, self.after = registration, after
        self.cursor = "" if role == "acknowledging" else cursor
        self.sessions: list[list[Got]] = []
        self.acknowledged: list[tuple[int, list[tuple[int, str]]]] = []
        self.gone = False
        self.is_over = False
        self.leaving = False
        self.was_left = False
        self.randomly = random.Random(world.randomly.random())
        self.task = asyncio.create_task(self._run())

    @property
    def received(self) -> list[Got]:
        return [each for session in self.sessions for each in session]

    async def _run(self) -> None:
        while not self.gone and not self.leaving:
            stream = self.world.api().listen(
                self.agent_id,
                cursor=self.cursor,
                heartbeat_interval_ms=100,
                conflate=self.role == "conflating",
            )
            self.sessions.append([])
            try:
                await self._session(stream)
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    assert self.is_over, "it was refused before its agent was unregistered"
                await asyncio.sleep(0.02)
            finally:
                await stream.cancel()
            # Another agent may have its id by now.
            self.gone = self.is_over

    async def _session(self, stream: Stream) -> None:
        left = 10**9 if self.role == "online" else self.randomly.randrange(1, 8)
        while left and not self.leaving:
            try:
                message = await stream.read(0.05)
            except TimeoutError:
                continue
            if message is None:
                return
            left -= 1
            self.sessions[-1] += got(message)
            if self.role == "acknowledging":
                await self._acknowledge(message)
            else:
                self.cursor = stream.cursor

    async def _acknowledge(self, message: Any) -> None:
        # Another agent may have its id by now, which this would acknowledge for.
        if self.is_over or self.randomly.random() < 0.5:
            return
        named: dict[str, str] = {"cursor": message.cursor}
        items = message.events.events
        if items and self.randomly.random() < 0.3:
            named = {"sequence": self.randomly.choice(items).event.sequence}
        request = AcknowledgeRequest(project=P, agent_id=self.agent_id, **named)
        while True:
            try:
                await self.world.api().agents.Acknowledge(request, timeout=DEADLINE_S)
                break
            except grpc.aio.AioRpcError as error:
                if self.is_over or error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.02)  # It may have been done, so that it has to be.
        session = len(self.sessions) - 1
        self.acknowledged.append((session, [(len(self.sessions[-1]), named.get("sequence", ""))]))

    async def leave(self) -> None:
        self.leaving = True
        await self.task

    async def check(self, inbox: Inbox, expected: list[Got]) -> None:
        """Compares what it got with the inbox."""
        start = 0
        if self.after is not None:
            start = sum(order(place) <= order(self.after) for place in inbox.places)
        if self.world.trims or self.role == "conflating":
            await self._check_summed_up(inbox, inbox.told[start:])
            return
        expected = expected[start:]
        if self.role == "acknowledging":
            await self.leave()
            self._check_sessions(inbox, expected, start)
            return
        if self.was_left:
            self._check_part(expected)
            return
        with suppress(TimeoutError):
            if inbox.is_over:
                await eventually(self.task.done, 10)
            else:
                await eventually(
                    lambda: self.task.done() or len(self.received) >= len(expected), 10
                )
                await asyncio.sleep(0.1)
        over = self.task.done()
        await self.leave()
        assert over == inbox.is_over, f"{self.agent_id} ({self.role}): its stream did not end"
        received = _as_known(self.received, expected)
        due = expected[: len(received)] if inbox.is_over else expected
        assert received == due, f"{self.agent_id} ({self.role}): {_differs(received, due)}"

    def _check_part(self, expected: list[Got]) -> None:
        received = _as_known(self.received, expected)
        due = expected[: len(received)]
        assert received == due, f"{self.agent_id} ({self.role}): {_differs(received, due)}"

    async def _check_summed_up(self, inbox: Inbox, due: list[Told]) -> None:
        """What is left out must make no difference to what it holds in the end."""
        label, held = f"{self.agent_id} ({self.role}) after {self.after}", fold(due)

        def told() -> list[Told]:
            return _plain([each for each, _ in self.received])

        if not inbox.is_over and not self.was_left and self.role != "acknowledging":
            with suppress(TimeoutError):
                await eventually(lambda: self.task.done() or fold(told()) == held, 10)
                await asyncio.sleep(0.1)
        await self.leave()
        for session in self.sessions if self.role == "acknowledging" else [self.received]:
            _check_is_part([each for each, _ in session], due, label)
        if inbox.is_over or self.was_left:
            return
        if self.role == "acknowledging":
            last = await self.world.api().listen(self.agent_id).live()
            self.sessions.append(all_got(last))
            await last.cancel()
        _check_fold(told(), due, label)

    def _check_sessions(self, inbox: Inbox, expected: list[Got], before: int) -> None:
        start = 0
        for number, session in enumerate(self.sessions):
            known = _as_known(session, expected)
            due = expected[start : start + len(session)]
            assert known == due, f"{self.agent_id}, session {number}: {_differs(known, due)}"
            first = start
            for at, marks in self.acknowledged:
                for count, sequence in marks if at == number else ():
                    if sequence:
                        start = max(start, _reached(inbox, sequence) - before)
                    else:
                        start = max(start, first + count)


def _check_is_part(received: list[Told], due: list[Told], label: str) -> None:
    """What is left of deliveries is what they were, in their order."""
    rest = iter(_plain(due))
    for place, each in enumerate(_plain(received)):
        assert any(each == other for other in rest), f"{label}: {place}: {each} is out of place"


def _check_fold(received: list[Told], due: list[Told], label: str) -> None:
    """Whoever has received this holds what was due."""
    one, other = fold(received), fold(due)
    for key in one.keys() | other.keys():
        if one.get(key) != other.get(key):
            got, told = ([e for e in some if e.data_key == key][-4:] for some in (received, due))
            raise AssertionError(f"{label}: {key}: {got} for {told}")


def _as_known(received: list[Got], expected: list[Got]) -> list[Got]:
    """What was received, without scores where those that are expected are not known."""
    bare = bool(expected) and all(scores is None for _, scores in expected)
    return [(each, None) for each, _ in received] if bare else received


def _differs(got: list[Any], due: list[Any]) -> str:
    """Where two lists begin to differ, which these asserts can't tell by themselves."""
    place = next((n for n, (a, b) in enumerate(zip(got, due, strict=False)) if a != b), -1)
    if place < 0:
        place = min(len(got), len(due))
    lengths = f"{len(got)} for {len(due)}"
    return f"{lengths}, at {place}: {got[place : place + 2]} for {due[place : place + 2]}"


def _reached(inbox: Inbox, sequence: str) -> int:
    """How many deliveries are acknowledged with an event.

    An erasure brings several that name its event, which may not have come all.
    """
    return sum(
        order(place) < order(sequence) or (place == sequence and each.kind != ERASED)
        for each, place in zip(inbox.told, inbox.places, strict=True)
    )


@dataclass
class World:
    """A project with agents, and what was done to it.

    Attributes:
        roles: How each agent listens; see `Reader`.
        lasting: Agents that are never unregistered.
        erases: Whether data are erased; not where publishes are lost.
        seeks: Whether agents ask for parts of the past again.
        trims: Whether inboxes are trimmed meanwhile.
        apis: Servers that are up, or will be again.
        specs: The registrations of each agent in turn.
        readers: Who has listened to each registration of an id.
        sequences: Of events.
        texts: What was published last of each key.
        payloads: What was published, by sequence; it may have been erased since.
        erasures: How often data were erased.
    """

    words: Vocabulary
    roles: dict[str, str]
    randomly: random.Random
    lasting: frozenset[str] = frozenset()
    erases: bool = False
    seeks: bool = False
    trims: bool = False
    score: Score = lambda _need, _text: 0.0
    apis: list[Api] = field(default_factory=list)
    specs: dict[str, list[Spec]] = field(default_factory=dict)
    registered: set[str] = field(default_factory=set)
    readers: dict[str, list[Reader]] = field(default_factory=dict)
    sequences: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    payloads: dict[str, bytes] = field(default_factory=dict)
    erasures: int = 0

    async def begin(self) -> None:
        """Registers all agents, when there is something already."""
        self.score = await scores(self.api(), self.words)
        await self.publish()
        for agent_id in self.roles:
            await self.register(agent_id)

    def api(self) -> Api:
        """Any server's."""
        return self.randomly.choice(self.apis)

    def spec(self, *, new: bool) -> Spec:
        pick = self.randomly
        needs: list[Filter | str] = [*pick.sample(self.words.needs, pick.randrange(1, 4))]
        if pick.random() < 0.4:
            needs[pick.randrange(len(needs))] = pick.choice(FILTERS)
        after = None
        if new and pick.random() < 0.4:
            after = pick.choice(["0", *self.sequences])
        return Spec(
            tuple(
                (need, 1.0 if isinstance(need, Filter) else pick.choice(self.words.thresholds))
                for need in needs
            ),
            pick.choice([None, None, ("",), ("/n",)]),
            frozenset(pick.sample(KINDS, pick.choice([0, 0, 1, 2]))),
            pick.random() < 0.3,
            after,
        )

    # -- What happens ---------------------------------------------------------------------------

    async def publish(self) -> None:
        pick, events = self.randomly, []
        for _ in range(pick.choice([1, 1, 2, 4])):
            key, text = pick.choice(KEYS), pick.choice(self.words.texts)
            chance = pick.random()
            if chance < 0.1 and key in self.texts:
                del self.texts[key]
                events.append(event(key, b"", tombstone=True))
                continue
            named: dict[str, Any] = {}
            if chance < 0.2:
                key, named["event_type"] = "", "note"
            elif chance < 0.6:
                text = self.texts.get(key, text)
            elif chance < 0.65:
                named["valid_for"] = Duration(seconds=1)
            payload = {"t": text, "n": pick.randrange(2), "m": pick.randrange(2)}
            if self.erases and pick.random() < 0.3:
                named["metadata"] = {"subject": pick.choice(SUBJECTS)}
            if key:
                self.texts[key] = text
            events.append(event(key, json.dumps(payload).encode(), **named))
        publisher = pick.choice(["", "", *self.roles])
        sequences = await self.api().publish(*events, publisher=publisher)
        self.sequences += sequences
        self.payloads |= zip(sequences, (each.payload for each in events), strict=True)

    async def erase(self) -> None:
        """Erases the data of a person, once all that happened before is decided: what is erased by
        then is judged without its payload."""
        for agent_id in self.registered:
            stream = await self.api().listen(agent_id, after_sequence="0").live()
            await stream.cancel()
        self.erasures += 1
        request = project_service_pb2.EraseDataRequest(
            project=P,
            subject=self.randomly.choice(SUBJECTS),
            request_id=f"r{self.erasures}",
            reason="a test",
        )
        await self.api().projects.EraseData(request, timeout=DEADLINE_S)

    async def register(self, agent_id: str) -> None:
        spec = self.spec(new=True)
        await self._register(agent_id, spec, "REGISTERED")
        self.registered.add(agent_id)

    async def _register(self, agent_id: str, spec: Spec, outcome: str) -> None:
        named: dict[str, Any] = {}
        if spec.min_delta is not None:
            named["min_delta"] = _min_delta(spec)
        request = RegisterAgentRequest(
            project=P,
            agent_id=agent_id,
            needs=_needs(spec),
            last_seen_sequence=spec.after,
            muted_kinds=kinds(spec.muted),
            exclude_own=spec.exclude_own,
            **named,
        )
        if outcome != "UNCHANGED":
            self.specs.setdefault(agent_id, []).append(spec)
        answer = await self.api().agents.RegisterAgent(request, timeout=DEADLINE_S)
        name = agent_service_pb2.RegistrationOutcome.Name(answer.outcome)
        assert name == f"REGISTRATION_OUTCOME_{outcome}"
        readers = self.readers.setdefault(agent_id, [])
        if self.roles[agent_id] != "offline" and (outcome == "REGISTERED" or spec.after):
            number = len(self.specs[agent_id]) - 1
            after = None if outcome == "REGISTERED" else spec.after
            readers.append(Reader(self, agent_id, answer.cursor, number, after))

    async def seek(self, agent_id: str) -> None:
        """Asks for a part of the past again, or for more of it, as one does that has lost what it
        knew; perhaps with other needs."""
        before, spec = self.specs[agent_id][-1], self.spec(new=False)
        if self.randomly.randrange(2) or _named(spec) == _named(before):
            spec = before  # With the same needs it would keep what it leaves out.
        after = self.randomly.choice(["0", *self.sequences])
        for reader in self.readers[agent_id][-1:]:
            reader.was_left = True
            await reader.leave()
        await self._register(agent_id, replace(spec, after=after), "CHANGED")

    async def change(self, agent_id: str) -> None:
        before, spec = self.specs[agent_id][-1], self.spec(new=False)
        if self.randomly.random() < 0.3:
            spec = Spec(before.needs, spec.min_delta, spec.muted, spec.exclude_own)
        if spec == replace(before, after=None):
            await self._register(agent_id, spec, "UNCHANGED")
            return
        if _named(spec) != _named(before) and self.randomly.randrange(2):
            await self._register(agent_id, spec, "CHANGED")
            return
        muted = agent_service_pb2.MutedKinds(kinds=kinds(spec.muted))
        request = UpdateAgentRequest(
            project=P,
            agent_id=agent_id,
            needs=_needs(spec),
            min_delta=_min_delta(spec),
            muted_kinds=muted,
            exclude_own=spec.exclude_own,
        )
        self.specs[agent_id].append(spec)
        await self.api().agents.UpdateAgent(request, timeout=DEADLINE_S)

    async def unregister(self, agent_id: str) -> None:
        self.registered.discard(agent_id)
        for reader in self.readers[agent_id][-1:]:
            reader.is_over = True
        request = UnregisterAgentRequest(project=P, agent_id=agent_id)
        await self.api().agents.UnregisterAgent(request, timeout=DEADLINE_S)

    async def forget_lost(self, agent_id: str) -> None:
        """After a change that was not answered: whether it was made is in the log."""
        made = sum(
            each.event_type == "agent_registered"
            and json.loads(each.payload)["agent_id"] == agent_id
            for each in await self.api().log()
        )
        assert made in (len(self.specs[agent_id]), len(self.specs[agent_id]) - 1)
        del self.specs[agent_id][made:]

    async def act(self, agent_id: str) -> None:
        """Something that an agent does."""
        if agent_id not in self.registered:
            await self.register(agent_id)
        elif self.seeks and self.randomly.random() < 0.3:
            await self.seek(agent_id)
        elif agent_id in self.lasting or self.randomly.random() < 0.75:
            await self.change(agent_id)
        else:
            await self.unregister(agent_id)

    async def play(self, rounds: int) -> None:
        pick = self.randomly
        for _ in range(rounds):
            if self.erases and pick.random() < 0.1:
                await self.erase()
            jobs = [self.publish() for _ in range(pick.choice([1, 1, 2]))]
            if pick.random() < 0.35:
                jobs.append(self.act(pick.choice([*self.roles])))
            pick.shuffle(jobs)
            if pick.randrange(2):
                await asyncio.gather(*jobs)
            else:
                for job in jobs:
                    await job
            if pick.random() < 0.2:
                await asyncio.sleep(0.01)

    # -- What must hold -------------------------------------------------------------------------

    async def log(self) -> list[event_pb2.Event]:
        """The log, once everything that is to expire has, and all servers know what is erased."""
        if self.erasures and len(self.apis) > 1:
            await asyncio.sleep(FRESH_S)
        while True:
            log = await self.api().log()
            latest = {e.data_key: e for e in log if e.data_key}
            if not any(e.HasField("valid_until") for e in latest.values()):
                break
            await asyncio.sleep(0.05)
        for each in log:
            if each.HasField("erased"):  # As it was published: it may have been judged by then.
                each.payload = self.payloads[each.sequence]
        return log

    async def check(self) -> None:
        log = await self.log()
        for agent_id, readers in self.readers.items():
            begun = 0
            for inbox in inboxes(log, agent_id, self.specs[agent_id], self.score):
                begun, before = begun + inbox.registrations, begun
                label = f"{agent_id} ({self.roles[agent_id]}) from {inbox.begin}"
                full: list[Got] | None = None
                if not inbox.is_over:
                    for api in self.apis:
                        stream = await api.listen(agent_id, after_sequence=inbox.begin).live()
                        read = all_got(stream)
                        await stream.cancel()
                        plain, due = _plain([t for t, _ in read]), _plain(inbox.told)
                        if self.trims:
                            _check_is_part(plain, due, label)
                            _check_fold(plain, due, label)
                            continue
                        assert plain == due, f"{label}: {_differs(plain, due)}"
                        assert full in (None, read)
                        full = read
                        self.check_fold(log, agent_id, [t for t, _ in read])
                    await self.check_conflated(agent_id, inbox, label)
                if full is None:  # What scores were is not known any more.
                    full = [(each, None) for each in inbox.told]
                for reader in readers:
                    if before <= reader.registration < begun:
                        await reader.check(inbox, full)

    async def check_conflated(self, agent_id: str, inbox: Inbox, label: str) -> None:
        """Of what an agent missed, the latest of each datum makes it hold the same."""
        stream = self.api().listen(agent_id, after_sequence=inbox.begin, conflate=True)
        read = [each for each, _ in all_got(await stream.live())]
        await stream.cancel()
        _check_is_part(read, inbox.told, label)
        _check_fold(read, inbox.told, label)
        states = [each.data_key for each in read if each.data_key and each.kind != ERASED]
        assert len(states) == len(set(states)), label

    def check_fold(self, log: list[event_pb2.Event], agent_id: str, read: list[Told]) -> None:
        """An agent that is told everything holds exactly what exists and meets its needs."""
        specs = self.specs[agent_id]
        spec = specs[-1]
        if any(s.muted or s.exclude_own or s.min_delta is not None for s in specs):
            return
        live: dict[str, event_pb2.Event] = {}
        for each in log:
            if each.event_type in ("data_deleted", "data_expired"):
                live.pop(each.data_key, None)
            elif each.event_type == "data_published":
                live[each.data_key] = each
        held = fold(read)
        assert held == {key: live[key].revision for key in held}
        begun = specs[-1].after is None and all(s.after is None for s in specs)
        for key, each in live.items():
            is_there = not each.HasField("erased")
            assert key not in held or (is_there and near(spec, each, self.score))
            surely = is_there and met(spec, each, self.score)
            assert key in held or not (surely and begun)

    async def close(self) -> None:
        for readers in self.readers.values():
            for reader in readers:
                reader.task.cancel()
                await asyncio.gather(reader.task, return_exceptions=True)


def _plain(items: list[Told]) -> list[Told]:
    return [each._replace(needs=tuple(sorted(each.needs))) for each in items]


def _named(spec: Spec) -> list[Filter | str]:
    return [need for need, _ in spec.needs]


def _needs(spec: Spec) -> list[agent_service_pb2.Need]:
    return [
        Need(text=need, threshold=threshold)
        if isinstance(need, str)
        else Need(
            filter=event_pb2.EventFilter(
                data_keys=need.keys, event_types=need.types, publishers=need.publishers
            )
        )
        for need, threshold in spec.needs
    ]


def _min_delta(spec: Spec) -> agent_service_pb2.MinDelta:
    if spec.min_delta is None:
        return MinDelta()
    if spec.min_delta == ("",):
        return MinDelta(payload_changed=True)
    return MinDelta(json_pointers=spec.min_delta)
