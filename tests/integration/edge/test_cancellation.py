"""A client that leaves, in whatever phase of a call, leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from contex_server.events.feed import Feed, Reader
from contex_server.events.hub import Channel
from contex_server.events.pace import PacedReplay
from contex_server.events.stream import _Pulse
from contex_server.inbox.hub import Listening
from contex_server.kernel.model import BEGINNING
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.store import open_store
from contex_server.match.project_matcher import ProjectMatcher
from contex_server.server import Server

from tests.integration.support import (
    EDGE_END,
    Api,
    P,
    PublishRequest,
    Words,
    event,
    eventually,
    in_stream,
)

KEPT = (Feed, Reader, Channel, ProjectMatcher, Listening, PacedReplay, _Pulse)


@dataclass
class Scene:
    """A server, the client that will leave, and another that stays."""

    server: Server
    words: Words
    leaver: Api
    writer: Api
    calls: list[Any] = field(default_factory=list)
    mended: list[Callable[[], None]] = field(default_factory=list)

    def block(self, method: str, of: Any = None) -> asyncio.Event:
        """Has a method of the log, or of a facet, wait until the scene is over.

        The event tells that it was called.
        """
        log = of or self.server.rooms.storage.log
        original = getattr(log, method)
        reached, over = asyncio.Event(), asyncio.Event()

        async def waiting(*args: Any) -> Any:
            reached.set()
            await over.wait()
            return await original(*args)

        setattr(log, method, waiting)

        def mend() -> None:
            over.set()
            setattr(log, method, original)

        self.mended.append(mend)
        return reached

    def subscribe(self, **fields: Any) -> Any:
        stream = self.leaver.subscribe(**fields)
        self.calls.append(stream.call)
        return stream

    def listen(self, **fields: Any) -> Any:
        stream = self.leaver.listen("agent", **fields)
        self.calls.append(stream.call)
        return stream

    async def fill(self, count: int = 60, size: int = 100_000) -> None:
        """More than fits between server and client."""
        for i in range(count):
            await self.writer.publish(event(f"alpha.{i}", b'{"n": "%s"}' % (b"x" * size)))


Phase = Callable[[Scene], Awaitable[None]]
PHASES: dict[str, Phase] = {}


def phase(function: Phase) -> Phase:
    PHASES[function.__name__] = function
    return function


def pause() -> Awaitable[None]:
    """Long enough for a phase that can't be seen from outside to be reached."""
    return asyncio.sleep(0.15)


@phase
async def subscribe_just_called(scene: Scene) -> None:
    scene.subscribe()


@phase
async def subscribe_opening_its_channel(scene: Scene) -> None:
    reached = scene.block("bounds")
    scene.subscribe()
    await reached.wait()


@phase
async def subscribe_reading_the_log(scene: Scene) -> None:
    await scene.fill(3, 10)
    reached = scene.block("read_part")
    scene.subscribe()
    await reached.wait()


@phase
async def subscribe_writing_the_past(scene: Scene) -> None:
    await scene.fill()
    await scene.subscribe().read()
    await pause()


@phase
async def subscribe_waiting_live(scene: Scene) -> None:
    await scene.subscribe().live()
    await scene.subscribe(data_keys=["never"], heartbeat_interval_ms=100).live()


@phase
async def subscribe_writing_live(scene: Scene) -> None:
    await scene.subscribe(edge=EDGE_END).live()
    await scene.fill()
    await pause()


@phase
async def subscribe_fallen_behind(scene: Scene) -> None:
    stream = scene.subscribe(edge=EDGE_END)
    await stream.live()
    await scene.fill()
    await stream.until(lambda s: "fell_behind" in s.kinds)


@phase
async def replay_reading_the_log(scene: Scene) -> None:
    reached = scene.block("read_part")
    scene.calls.append(scene.leaver.replay().call)
    await reached.wait()


@phase
async def replay_writing(scene: Scene) -> None:
    await scene.fill()
    replay = scene.leaver.replay()
    scene.calls.append(replay.call)
    await replay.read()
    await pause()


@phase
async def replay_in_a_pause(scene: Scene) -> None:
    await scene.fill(2, size=1)
    replay = scene.leaver.replay(speed=1e-6, max_pause_ms=3_600_000)
    scene.calls.append(replay.call)
    await replay.read()
    await pause()


@phase
async def listen_just_called(scene: Scene) -> None:
    scene.listen()


@phase
async def listen_loading_the_agent(scene: Scene) -> None:
    reached = scene.block("agent", scene.server.rooms.storage.store.agents)
    scene.listen()
    await reached.wait()


@phase
async def listen_asking_for_the_log(scene: Scene) -> None:
    reached = scene.block("bounds")
    scene.listen()
    await reached.wait()


@phase
async def listen_reading_the_inbox(scene: Scene) -> None:
    reached = scene.block("inbox_part", scene.server.rooms.storage.store.inboxes)
    scene.listen(after_sequence="0")
    await reached.wait()


@phase
async def listen_waiting_for_what_is_undecided(scene: Scene) -> None:
    await _without_vectors(scene)
    scene.words.delay_s = 60
    scene.listen(after_sequence="0")
    await pause()


@phase
async def listen_writing_the_past(scene: Scene) -> None:
    await scene.fill()
    await scene.listen(after_sequence="0").read()
    await pause()


@phase
async def listen_waiting_live(scene: Scene) -> None:
    await scene.listen().live()
    await scene.listen(heartbeat_interval_ms=100).live()


@phase
async def listen_writing_live(scene: Scene) -> None:
    await scene.listen().live()
    await scene.fill()
    await pause()


@phase
async def listen_while_the_model_is_down(scene: Scene) -> None:
    await scene.listen().live()
    await _without_vectors(scene)
    await pause()


async def _without_vectors(scene: Scene) -> None:
    scene.words.down = True
    await scene.writer.publish(event("alpha.late"), event("alpha.later", description="word"))
    scene.words.down = False
    scene.words.delay_s = 0


@phase
async def publish_stream_without_a_batch(scene: Scene) -> None:
    scene.calls.append(scene.leaver.events.PublishStream())
    await scene.calls[0].wait_for_connection()


@phase
async def publish_stream_waiting_for_the_next_batch(scene: Scene) -> None:
    call = scene.leaver.events.PublishStream()
    scene.calls.append(call)
    await call.write(in_stream(project=P, events=[event()]))
    await call.read()


@phase
async def publish_stream_embedding(scene: Scene) -> None:
    scene.words.delay_s = 60
    call = scene.leaver.events.PublishStream()
    scene.calls.append(call)
    for i in range(40):
        words = f"{'abcdefgh'[i % 8]}{'ijklm'[i // 8]}"
        await call.write(in_stream(project=P, events=[event(f"new.{words}")]))
    await pause()


@phase
async def publish_stream_appending(scene: Scene) -> None:
    reached = scene.block("append")
    call = scene.leaver.events.PublishStream()
    scene.calls.append(call)
    for _ in range(40):
        await call.write(in_stream(project=P, events=[event()]))
    await reached.wait()


@phase
async def publish_stream_writing_answers(scene: Scene) -> None:
    call = scene.leaver.events.PublishStream()
    scene.calls.append(call)
    for _ in range(100):
        await call.write(in_stream(project=P, events=[event()] * 300))
    await pause()


@phase
async def publish_embedding(scene: Scene) -> None:
    scene.words.delay_s = 60
    request = PublishRequest(project=P, events=[event("quite.new")])
    scene.calls.append(scene.leaver.events.Publish(request))
    await pause()


@phase
async def publish_appending(scene: Scene) -> None:
    reached = scene.block("append")
    request = PublishRequest(project=P, events=[event()])
    scene.calls.append(scene.leaver.events.Publish(request))
    await reached.wait()


@phase
async def register_embedding(scene: Scene) -> None:
    scene.words.delay_s = 60
    scene.calls.append(asyncio.ensure_future(scene.leaver.register("other", "quite new")))
    await pause()


@phase
async def register_indexing_the_data(scene: Scene) -> None:
    await scene.fill(3, 10)
    await eventually(lambda: len(scene.server.rooms.match.pool) == 0)
    await _without_vectors(scene)
    scene.words.delay_s = 60
    scene.calls.append(asyncio.ensure_future(scene.leaver.register("other", "alpha")))
    await pause()


@pytest.fixture
def _nothing_from_before() -> Iterator[None]:
    """What there is already is not looked at again and again."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
async def scene(
    _nothing_from_before: None, word_server: Server, words: Words
) -> AsyncIterator[Scene]:
    # The leaver's windows stay small, so that a server that writes to it soon waits.
    leaver = Api.of(word_server, ("grpc.http2.bdp_probe", 0))
    async with leaver, Api.of(word_server) as writer:
        await writer.publish(event("alpha"))
        await writer.register("agent", "alpha")
        await leaver.publish(event("warm"), project="warm")
        await leaver.log("warm")
        yield Scene(word_server, words, leaver, writer)


def left_behind(server: Server, before: set[asyncio.Task[Any]]) -> dict[str, Any]:
    hub, pool = server.rooms.events.hub, server.rooms.match.pool
    left: dict[str, Any] = {
        "calls": server.calls.active,
        # A decider follows each project that has agents.
        "channels": len(hub.channels) - len(server.rooms.inbox.deciders),
        "feeds": len(server.rooms.inbox.hub.feeds),
        "matchers": len(pool),
        "closing": [*hub._closing, *pool._closing],
        "wakers": len(server.drain._wakers),
        "read": server.rooms.storage.log.reading.held,
        "tasks": [t for t in asyncio.all_tasks() - before if not t.done() and not _accepts(t)],
    }
    return {name: what for name, what in left.items() if what}


def _accepts(task: asyncio.Task[Any]) -> bool:
    """Whether it is gRPC's wait for the next call, a new task for each."""
    return "AioServer._request_call" in repr(task)


def kept_objects() -> list[object]:
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, KEPT)]


async def nothing_is_kept(besides: int = 0) -> None:
    """Besides so many things that a decider keeps."""
    try:
        await eventually(lambda: len(kept_objects()) <= besides, timeout=15)
    except TimeoutError:
        kept = {repr(thing)[:80]: gc.get_referrers(thing) for thing in kept_objects()}
        raise AssertionError(f"kept: {kept}") from None


WAYS = ("cancels", "disconnects")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        # One way and the other in turn; both of each phase in `make test-all`.
        pytest.param(name, WAYS[way], marks=() if way == number % 2 else pytest.mark.thorough)
        for number, name in enumerate(PHASES)
        for way in range(2)
    ],
)
async def test_who_leaves_leaves_nothing_behind(scene: Scene, name: str, how: str) -> None:
    server = scene.server
    await eventually(lambda: not left_behind(server, asyncio.all_tasks()))
    before, kept = asyncio.all_tasks(), len(kept_objects())
    await PHASES[name](scene)
    if how == "cancels":
        for call in scene.calls:
            call.cancel()
    else:
        await scene.leaver.channel.close()
    await asyncio.gather(
        *(c if isinstance(c, asyncio.Future) else c.code() for c in scene.calls),
        return_exceptions=True,
    )
    for mend in scene.mended:
        mend()
    scene.words.delay_s = 0
    try:
        await eventually(lambda: not left_behind(server, before), timeout=15)
    except TimeoutError:
        raise AssertionError(f"left behind: {left_behind(server, before)}") from None
    scene.calls.clear()
    before.clear()  # These tasks' frames hold what they worked on.
    await nothing_is_kept(kept)
    await scene.writer.publish(event("alpha.after"))
    stream = await scene.writer.subscribe(edge=EDGE_END).live()
    await stream.cancel()


async def test_many_come_and_go_at_any_moment(scene: Scene) -> None:
    await eventually(lambda: not left_behind(scene.server, asyncio.all_tasks()))
    before, kept = asyncio.all_tasks(), len(kept_objects())

    async def visit(number: int) -> None:
        async with Api.of(scene.server) as api:
            for turn in range(6):
                stream = api.listen("agent") if (number + turn) % 2 else api.subscribe()
                await asyncio.sleep(0.004 * ((number * 7 + turn * 3) % 10))
                await stream.cancel()

    async def write() -> None:
        for i in range(60):
            await scene.writer.publish(event(f"alpha.{i}", b'"%s"' % (b"x" * 20_000)))

    await asyncio.gather(write(), *(visit(n) for n in range(20)))
    await eventually(lambda: not left_behind(scene.server, before))
    before.clear()  # These tasks' frames hold what they worked on.
    await nothing_is_kept(kept)


async def test_a_poll_of_the_store_ends_in_whatever_turn_it_is_cancelled(
    valkey: EmbeddedValkey,
) -> None:
    log = (await open_store(valkey.url)).events
    for turns in range(40):
        follower = log.follower()
        poll = asyncio.create_task(follower.poll({P: BEGINNING}))
        for _ in range(turns):
            await asyncio.sleep(0)
        poll.cancel()
        # By itself it would end after two seconds.
        await asyncio.wait([poll], timeout=1.0)
        assert poll.cancelled()
        await follower.close()
    await log.close()
