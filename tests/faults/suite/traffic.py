"""Publishers, followers and an agent. All they decide follows from the seed; how long things take
does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from random import Random
from typing import Any

import grpc
from contex import (
    AsyncClient,
    ContexError,
    Durability,
    Event,
    NewEvent,
    RevisionConflict,
)
from contex.channel import channel_options
from contex.errors import is_transient
from contex.v1 import event_pb2

from tests.faults.suite.lab import Lab
from tests.faults.suite.model import (
    END,
    TOLD,
    Entry,
    Follower,
    Model,
    Request,
    Stretch,
    tag_of,
)
from tests.faults.suite.verdict import is_complete

AGENT, NEED, DESCRIPTION = "archivist", "zip archives", "read and write zip archives"
PLAIN_KEYS = [f"k{n}" for n in range(20)]
AGENT_KEYS = [f"zip.{n}" for n in range(4)]
SLOW_S = 10.0
_QUICK_TO_GO_ON = ("kill_primary", "hand_over", "cut_clients", "kill_replica", "pause_replica")
_TIMEOUT_S = 8.0
_GIVE_UP_S = 90.0
_END_S = 60.0
_HEARTBEAT_MS = 1_000


class Traffic:
    """What goes on at the servers of a lab.

    Attributes:
        slow: Publishes that took longer than `SLOW_S`, though every server could be reached.
    """

    def __init__(self, lab: Lab, model: Model) -> None:
        self._plan = lab.plan
        self._lab = lab
        self._model = model
        self._channels: list[grpc.aio.Channel] = []
        self._clients: list[AsyncClient] = []
        self._stopped = asyncio.Event()
        self._publishers: list[asyncio.Task[None]] = []
        self._readers: list[asyncio.Task[None]] = []
        self.slow: list[str] = []

    async def start(self) -> None:
        """Registers the agent, and starts everybody."""
        for server in self._lab.servers:
            options = dict([*channel_options(_TIMEOUT_S, target=server.target)])
            # A server that has come back is noticed at once.
            options |= {"grpc.max_reconnect_backoff_ms": 200, "grpc.use_local_subchannel_pool": 1}
            channel = grpc.aio.insecure_channel(server.target, options=[*options.items()])
            self._channels.append(channel)
            self._clients.append(AsyncClient(server.target, timeout=_TIMEOUT_S, channel=channel))
        first = self._lab.projects[0]
        await self._clients[0].register_agent(first, AGENT, [NEED], last_seen_sequence="0")
        for project in self._lab.projects:
            await self._publish(self._rng(project), project, "first", ["k0"], number=0)
            for number in range(1 if self._plan.quick else 2):
                name = f"{project}-publisher-{number}"
                self._begin(self._publishers, self._publishing(project, name, number))
            self._begin(self._publishers, self._streaming(project, f"{project}-stream"))
            self._follow("everything", project, self._subscribing)
            self._follow("filtered", project, self._subscribing, "k1", "zip.")
            self._follow("restless", project, self._subscribing)
            self._follow("late", project, self._subscribing)
        self._follow("agent", first, self._listening, "zip.")

    def _rng(self, *names: object) -> Random:
        return Random(" ".join(map(str, (self._plan.seed, *names))))

    def _begin(self, tasks: list[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        tasks.append(asyncio.create_task(work))

    def _client(self, number: int) -> AsyncClient:
        return self._clients[number % len(self._clients)]

    # -- publishing ------------------------------------------------------------------------------

    async def _publishing(self, project: str, name: str, number: int) -> None:
        rng = self._rng(name)
        while not self._stopped.is_set():
            keys = [self._key(rng) for _ in range(rng.choice((1, 1, 1, 2, 5)))]
            await self._publish(rng, project, name, keys, number)
            await self._pause(rng.uniform(0, 0.12))

    def _key(self, rng: Random) -> str:
        return rng.choice(AGENT_KEYS) if rng.random() < 0.1 else rng.choice(PLAIN_KEYS)

    def _durability(self, rng: Random) -> Durability:
        weights = (3, 10, 7) if self._plan.replicas else (3, 10, 0.3)
        return rng.choices(list(Durability), weights)[0]

    async def _publish(
        self, rng: Random, project: str, name: str, keys: Sequence[str], number: int
    ) -> Request:
        """Publishes, and repeats it until there is an answer, on the next server each time."""
        expected = None
        if len(keys) == 1 and rng.random() < 0.3:
            expected = self._model.revisions.get((project, keys[0]))
        asked = self._durability(rng)
        request = self._model.request(project, name, keys, asked, expected)
        again = rng.random() < 0.1
        while True:
            client = self._client(number)
            number += 1
            try:
                receipts = await client.publish_batch(
                    project,
                    _events(request),
                    durability=request.asked,
                    request_id=f"{self._plan.seed}.{request.number}",
                )
            except RevisionConflict as error:
                request.refusal = error.reason
                self._model.revisions[project, keys[0]] = error.actual_revision
                return request
            except ContexError as error:
                took = self._model.now() - request.sent
                if not is_transient(error):
                    self._model.oddities.append(f"{request} was refused: {error}")
                elif not self._stopped.is_set() and took < _GIVE_UP_S:
                    await self._pause(0.1)
                    continue
                return request
            self._answered(request, receipts)
            if not again:
                return request
            again = False

    def _answered(self, request: Request, receipts: Sequence[Any]) -> None:
        self._model.answered(request, receipts)
        now = self._model.now()
        out_of_order = (f for f in self._model.faults if f.began < now and f.mended > request.sent)
        explained = any(fault.kind not in _QUICK_TO_GO_ON for fault in out_of_order)
        if now > request.sent + SLOW_S and len(request.answers) == 1 and not explained:
            reached = request.answers[0].receipts[0].durability.name
            self.slow.append(
                f"{request.asked.name} of {request.project} sent at {request.sent:.1f} s took "
                f"{now - request.sent:.1f} s, answered {reached}"
            )

    async def _streaming(self, project: str, name: str) -> None:
        """Publishes batches over one stream after the other."""
        rng = self._rng(name)
        number = rng.randrange(len(self._clients))
        while not self._stopped.is_set():
            requests: list[Request] = []
            asked, batches = self._durability(rng), rng.randint(5, 30)

            async def source(
                requests: list[Request] = requests, asked: Durability = asked, left: int = batches
            ) -> AsyncIterator[list[NewEvent]]:
                while left and not self._stopped.is_set():
                    left -= 1
                    keys = [self._key(rng) for _ in range(rng.randint(1, 4))]
                    requests.append(self._model.request(project, f"{name}", keys, asked))
                    yield _events(requests[-1])
                    await self._pause(rng.uniform(0, 0.12))

            number += 1
            answered = 0
            with suppress(ContexError, TimeoutError):
                async with (
                    asyncio.timeout(_GIVE_UP_S),
                    self._client(number).publish_stream(project, source(), durability=asked) as s,
                ):
                    async for result in s:
                        request = requests[answered]
                        answered += 1
                        if result.error is None:
                            self._answered(request, result.receipts)
                        elif is_transient(result.error):
                            request.refusal = result.error.reason
                        else:
                            self._model.oddities.append(f"{request} was refused: {result.error}")
            await self._pause(0.05)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()

    # -- following -------------------------------------------------------------------------------

    def _follow(
        self,
        name: str,
        project: str,
        work: Callable[[Follower], Coroutine[Any, Any, None]],
        *begins: str,
    ) -> None:
        follower = Follower(name, project, begins, agent=name == "agent")
        self._model.followers.append(follower)
        self._begin(self._readers, work(follower))

    async def _subscribing(self, follower: Follower) -> None:
        rng = self._rng(follower.name, follower.project)
        number = rng.randrange(len(self._clients))
        after = "0"
        if follower.name == "late":
            await self._pause(rng.uniform(0.5, 3))
            after = self._newest(follower.project)
        while True:
            stretch = Stretch(after)
            follower.stretches.append(stretch)
            cursor: str | None = None
            while not stretch.ended:
                position = {"cursor": cursor} if cursor else {"after_sequence": after}
                subscription = self._client(number).subscribe(
                    follower.project,
                    data_keys=[f"{start}*" for start in follower.begins],
                    heartbeat_interval_ms=_HEARTBEAT_MS,
                    reconnect=False,
                    **position,  # type: ignore[arg-type]
                )
                left = rng.randint(1, 60) if follower.name == "restless" else None
                try:
                    async with subscription:
                        async for message in subscription.messages():
                            events: Any = message.events.events
                            stretch.entries += [self._entry(event) for event in events]
                            if left is not None and (left := left - 1) <= 0:
                                break
                except ContexError as error:
                    stretch.ended = "" if is_transient(error) else error.reason or str(error)
                    await asyncio.sleep(rng.uniform(0, 0.2))
                cursor = subscription.cursor or cursor
                follower.resumed += 1
                number += 1
            if not self._begins_again(follower, stretch):
                return
            after = "0"

    def _begins_again(self, follower: Follower, stretch: Stretch) -> bool:
        """Whether a follower may go on from the beginning after the end of a stretch."""
        if stretch.ended in TOLD and any(fault.loses for fault in self._model.faults):
            return True
        self._model.oddities.append(f"{follower.name} was ended: {stretch.ended}")
        return False

    def _newest(self, project: str) -> str:
        """A sequence that a follower may begin after."""
        for request in reversed(self._model.requests):
            if request.project == project and request.answers:
                return request.answers[0].receipts[-1].sequence
        return "0"

    async def _listening(self, follower: Follower) -> None:
        """An agent that acknowledges what it gets, and goes on from there or from its cursor."""
        rng = self._rng(follower.name, follower.project)
        number = 0
        while True:
            stretch = Stretch("0")
            follower.stretches.append(stretch)
            cursor: str | None = None
            acknowledged = True
            while not stretch.ended:
                from_durable = acknowledged and self._plan.fsync == "always"
                from_durable &= not any(fault.loses for fault in self._model.faults)
                client = self._client(number)
                position = cursor if cursor and not (from_durable and rng.random() < 0.5) else None
                subscription = client.listen(
                    follower.project,
                    AGENT,
                    cursor=position,
                    after_sequence=None if position or from_durable else "0",
                    heartbeat_interval_ms=_HEARTBEAT_MS,
                    reconnect=False,
                )
                left = rng.randint(3, 30)
                try:
                    async with subscription:
                        async for message in subscription.messages():
                            if message.WhichOneof("message") == "events":
                                events: Any = message.events.events
                                entries = [self._entry(matched.event) for matched in events]
                                stretch.entries += entries
                                acknowledged = False
                                at = message.cursor
                                await client.acknowledge(
                                    follower.project, AGENT, cursor=at, timeout=3
                                )
                                acknowledged = True
                            if (left := left - 1) <= 0:
                                break
                except ContexError as error:
                    stretch.ended = "" if is_transient(error) else error.reason or str(error)
                    await asyncio.sleep(rng.uniform(0, 0.2))
                cursor = subscription.cursor or cursor
                follower.resumed += 1
                number += 1
            if not self._begins_again(follower, stretch):
                return

    def _entry(self, event: event_pb2.Event) -> Entry:
        tag = tag_of(event.payload)
        return Entry(event.sequence, event.data_key, event.revision, tag, self._model.now())

    # -- the end ---------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Ends the publishers, has each project's last event published, and everybody read it."""
        self._stopped.set()
        await asyncio.gather(*self._publishers)
        self._stopped.clear()
        for project in self._lab.projects:
            request = await self._publish(self._rng("end"), project, "end", [END], number=0)
            if not request.answers:
                self._model.oddities.append(f"{request} was not answered, though all is mended")
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                while not all(
                    task.done() or is_complete(follower)
                    for follower, task in zip(self._model.followers, self._readers, strict=True)
                ):
                    await asyncio.sleep(0.05)

    async def logs(self) -> dict[str, list[Entry]]:
        """Each project's log, as every server gives it."""
        found = {}
        for project in self._lab.projects:
            read = []
            for client in self._clients:
                async with client.replay(project) as events:
                    read.append([_read(event) async for event in events])
                pages = client.list_events(project, page_size=1_000)
                read.append([_read(event) async for event in pages])
            if any(other != read[0] for other in read[1:]):
                self._model.oddities.append(f"servers do not agree on the log of {project}")
            found[project] = read[0]
        return found

    async def stop(self) -> None:
        """Ends everybody."""
        tasks = [*self._publishers, *self._readers]
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                self._model.oddities.append(f"the suite failed: {end!r}")
        for client in self._clients:
            await client.close()
        for channel in self._channels:
            await channel.close()


def _events(request: Request) -> list[NewEvent]:
    return [
        NewEvent(
            key,
            {"request": request.number, "number": number},
            description=DESCRIPTION if key.startswith("zip.") else None,
            expected_revision=request.expected,
        )
        for number, key in enumerate(request.keys)
    ]


def _read(event: Event) -> Entry:
    return Entry(event.sequence, event.data_key, event.revision, tag_of(event.payload))
