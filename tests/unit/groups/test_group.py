"""The consumers of a process, with a store that does what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import pytest
from contex_server.groups.consumer import Answer, Claim, ConsumerSpec, Idle, Lost
from contex_server.groups.group import Group
from contex_server.kernel.errors import ContexError, Reason, store_unavailable
from contex_server.kernel.model import BEGINNING, Sequence
from contex_server.log.groups import (
    Claimed,
    Demand,
    Gaps,
    Outcome,
    Settled,
    Settlement,
    Taken,
    Verb,
)
from contex_server.log.inboxes import InboxEntry

Hook = Callable[[], Awaitable[None]]


class Store:
    """Hands out what `ready` has.

    Attributes:
        taking, settling: Called once, when the next call is done and not answered.
        settled: What was said of deliveries, and what is to be answered to the next.
        left: Consumers that have left.
    """

    def __init__(self) -> None:
        self.epoch = 1
        self.ready: list[str] = []
        self.taking: Hook | None = None
        self.settling: Hook | None = None
        self.outcomes: list[Outcome] = []
        self.settled: list[Settlement] = []
        self.left: list[str] = []
        self.cursors: list[Sequence] = []
        self.upto: Sequence | None = None
        self.opened: list[tuple[str, list[str], bool]] = []
        self.names: dict[str, str] = {}
        self.position = BEGINNING

    async def open(
        self,
        _project: str,
        _agent_id: str,
        _start: Sequence,
        consumer: str,
        stream_id: str,
        held: Iterable[str],
        *,
        again: bool = False,
    ) -> int | None:
        self.opened.append((consumer, [*held], again))
        if again and self.names[consumer] != stream_id:
            return None
        self.names[consumer] = stream_id
        epoch = self.epoch
        await asyncio.sleep(0)
        return epoch

    async def take(
        self, _project: str, _agent_id: str, epoch: int, demands: Iterable[Demand], **_: Any
    ) -> Taken | None:
        if epoch != self.epoch:
            return None
        claims: list[list[Claimed] | None] = []
        for demand in demands:
            refs, self.ready = self.ready[: demand.most], self.ready[demand.most :]
            entries = [InboxEntry(Sequence.parse(ref), b"") for ref in refs]
            made = [Claimed(ref, e, 1, False) for ref, e in zip(refs, entries, strict=True)]
            is_known = self.names[demand.consumer] == demand.stream_id
            claims.append(made if is_known else None)
        hook, self.taking = self.taking, None
        if hook is not None:
            await hook()
        return Taken(claims, None, False, 0, Gaps(), [], self.position)

    async def settle(
        self,
        _project: str,
        _agent_id: str,
        epoch: int,
        settlements: Iterable[Settlement],
        *,
        cursor: Sequence | None = None,
        leaving: Iterable[tuple[str, str]] = (),
        parked: int,
    ) -> Settled | None:
        if epoch != self.epoch:
            return None
        several = [*settlements]
        self.settled += several
        self.left += [name for name, _ in leaving]
        if cursor is not None:
            self.cursors.append(cursor)
        hook, self.settling = self.settling, None
        if hook is not None:
            await hook()
        outcomes = [self.outcomes.pop(0) if self.outcomes else Outcome.DONE for _ in several]
        return Settled(self.upto, outcomes)


@pytest.fixture
def store() -> Store:
    return Store()


async def _beginning() -> Sequence:
    return BEGINNING


@pytest.fixture
async def group(store: Store) -> AsyncIterator[Group]:
    made = Group(
        "p",
        "a",
        store,  # type: ignore[arg-type]
        _beginning,
        _beginning,
        lambda: None,
        outstanding=10,
        parked=10,
        noted=False,
    )
    yield made
    await made.close()


def spec(name: str = "x", messages: int = 10) -> ConsumerSpec:
    return ConsumerSpec(name, messages, 1_000_000, 60_000, 10)


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.005)


async def told(consumer: Any, kind: type) -> Any:
    async with asyncio.timeout(5):
        while not isinstance(found := await consumer.next(0.05), kind):
            pass
    return found


async def test_what_is_taken_as_something_is_settled_is_handed_out(
    group: Group, store: Store
) -> None:
    async with group.consumer(spec(), "sx", (), BEGINNING) as x:

        async def settle() -> None:
            group.settle(x, 7, ["9-0.1.1"], Verb.ACK, lambda _: "")

        store.taking, store.ready = settle, ["1-0"]
        group.wake()
        (claim,) = await told(x, list)
        assert claim.claimed.ref == "1-0"


async def test_what_is_taken_for_one_that_leaves_or_drains_is_given_back(
    group: Group, store: Store
) -> None:
    async with group.consumer(spec("y"), "sy", (), BEGINNING) as y:
        gone = asyncio.Event()
        async with group.consumer(spec("x"), "sx", (), BEGINNING) as x:
            await until(lambda: not group._awaits)
            y.drain()

            async def leave() -> None:
                gone.set()
                await until(lambda: "x" not in group.consumers)

            store.taking, store.ready = leave, ["1-0"]
            group.wake()
            await gone.wait()
        await until(lambda: store.settled)
        assert store.settled == [Settlement(Verb.GIVE_BACK, "x", "1-0", 1, "")]
        assert x.claims == {}
        await until(lambda: "x" in store.left)

        async def drain() -> None:
            z.drain()

        async with group.consumer(spec("z"), "sz", (), BEGINNING) as z:
            store.taking, store.ready = drain, ["2-0"]
            group.wake()
            await until(lambda: len(store.settled) == 2)
            assert store.settled[1] == Settlement(Verb.GIVE_BACK, "z", "2-0", 1, "")


async def test_what_is_taken_for_the_last_that_leaves_is_given_back(
    group: Group, store: Store
) -> None:
    taking = asyncio.Event()

    async def be_slow() -> None:
        taking.set()
        await asyncio.sleep(0.05)

    async with group.consumer(spec(), "sx", (), BEGINNING):
        store.taking, store.ready = be_slow, ["1-0"]
        group.wake()
        await taking.wait()
    await group.close()
    assert store.settled == [Settlement(Verb.GIVE_BACK, "x", "1-0", 1, "")]


async def test_one_that_leaves_as_another_does_is_not_forgotten(group: Group, store: Store) -> None:
    y = group.consumer(spec("y"), "sy", (), BEGINNING)
    await y.__aenter__()

    async def leave() -> None:
        await y.__aexit__(None, None, None)

    store.settling = leave
    async with group.consumer(spec("x"), "sx", (), BEGINNING):
        await until(lambda: store.names)
    await until(lambda: len(store.left) == 2)
    assert store.left == ["x", "y"]


async def test_of_two_streams_that_come_at_once_under_a_name_one_is_ended(
    group: Group, store: Store
) -> None:
    async with asyncio.TaskGroup() as tasks:
        ready, done = asyncio.Event(), asyncio.Event()
        found: list[Any] = []

        async def come(stream_id: str) -> None:
            async with group.consumer(spec(), stream_id, (), BEGINNING) as x:
                found.append(x)
                if len(found) == 2:
                    ready.set()
                await done.wait()

        tasks.create_task(come("s1"))
        tasks.create_task(come("s2"))
        await ready.wait()
        store.ready = ["1-0"]
        group.wake()
        served = group.consumers["x"]
        assert (await told(served, list))[0].claimed.ref == "1-0"
        (other,) = [x for x in found if x is not served]
        with pytest.raises(ContexError) as ended:
            while isinstance(await other.next(5), Idle):
                pass  # Told before the second one came.
        assert ended.value.reason is Reason.CONSUMER_REPLACED
        done.set()


async def test_a_consumer_that_comes_after_a_seek_does_not_hide_it(
    group: Group, store: Store
) -> None:
    store.ready, store.upto = ["1-0", "2-0"], Sequence(1, 0)
    async with group.consumer(spec("x"), "sx", (), BEGINNING) as x:
        first, second = await told(x, list)
        group.settle(x, 1, [first.id], Verb.ACK, lambda _: "")
        await told(x, Answer)
        # The cursor is about to move once more.
        await until(lambda: store.cursors)
        store.upto = Sequence(2, 0)
        group._cursor_due = asyncio.get_running_loop().time() + 0.2
        group.settle(x, 2, ["9-0.1.1"], Verb.EXTEND, lambda _: "60000")
        await told(x, Answer)
        store.epoch, store.upto = 2, None
        async with group.consumer(spec("y"), "sy", (), BEGINNING):
            lost = await told(x, Lost)
            assert lost.delivery_ids == [second.id]
            await asyncio.sleep(0.3)
        assert store.cursors == [Sequence(1, 0)]


async def test_claims_on_what_the_store_did_not_tell_of_are_given_back_and_others_kept(
    group: Group, store: Store
) -> None:
    held = "7-0.1.1"
    async with group.consumer(spec(), "sx", [held], BEGINNING) as x:
        store.ready = ["1-0"]
        group.wake()
        (claim,) = await told(x, list)

        async def fail() -> None:
            raise store_unavailable("gone")

        store.taking = fail
        before = len(store.opened)
        group.wake()
        await until(lambda: len(store.opened) > before)
        name, refs, again = store.opened[-1]
        assert (name, sorted(refs), again) == ("x", ["1-0", "7-0"], True)
        assert [*x.claims] == [claim.id]


async def test_a_claim_that_was_lost_is_not_extended_as_the_store_fails(
    group: Group, store: Store
) -> None:
    store.ready = ["1-0", "2-0"]
    async with group.consumer(spec(), "sx", (), BEGINNING) as x:
        claims: list[Claim] = await told(x, list)

        async def fail() -> None:
            raise store_unavailable("gone")

        store.settling = fail
        store.outcomes = [Outcome.GONE, Outcome.GONE]
        group.settle(x, 1, [claims[0].id], Verb.EXTEND, lambda _: "1000")
        group.settle(x, 2, [claims[1].id], Verb.ACK, lambda _: "")
        extended, acked = await told(x, Answer), await told(x, Answer)
        assert extended.lost == [claims[0].id]
        assert acked.lost == []  # It may have been done the first time.


async def test_nobody_misses_what_it_was_given_as_it_is_unclear_who_is_idle(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contex_server.groups.group._BACKOFF_S", (0.001, 0.01))
    looks = 0

    async def fail() -> Sequence:
        nonlocal looks
        looks += 1
        raise store_unavailable("gone")

    group = Group(
        "p",
        "a",
        store,  # type: ignore[arg-type]
        _beginning,
        fail,
        lambda: None,
        outstanding=10,
        parked=10,
        noted=False,
    )
    async with (
        group.consumer(spec("x", messages=1), "sx", (), Sequence(9, 0)) as x,
        group.consumer(spec("y", messages=1), "sy", (), Sequence(9, 0)) as y,
    ):
        for number in range(1, 5):
            # In turn, one of them has nothing.
            store.ready = [f"{number}-0"]
            group.wake()
            await until(lambda: x.claims or y.claims)
            for consumer in (x, y):
                for name in [*consumer.claims]:
                    group.settle(consumer, None, [name], Verb.ACK, lambda _: "")
            await until(lambda: not (x.claims or y.claims))
    assert looks
    await group.close()


async def test_the_cursor_follows_what_nobody_has_to_settle(group: Group, store: Store) -> None:
    async with group.consumer(spec(), "sx", (), BEGINNING):
        store.position = store.upto = Sequence(5, 0)
        group.wake()
        await until(lambda: store.cursors)
        assert store.cursors == [Sequence(5, 0)]


async def test_the_cursor_follows_the_last_settlement_of_the_last_that_leaves(
    group: Group, store: Store
) -> None:
    store.upto = Sequence(1, 0)
    async with group.consumer(spec(), "sx", (), BEGINNING) as x:
        await until(lambda: store.cursors)

        taking = asyncio.Event()

        async def be_slow() -> None:
            taking.set()
            await asyncio.sleep(0.05)

        store.taking = be_slow
        group.wake()
        await taking.wait()
        store.upto = Sequence(7, 0)
        group.settle(x, None, ["7-0.1.1"], Verb.ACK, lambda _: "")
    await group.close()
    assert store.cursors[-1] == Sequence(7, 0)
