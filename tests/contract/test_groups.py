"""What every store's consumer groups keep to, on the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest
from contex_server.inbox.entry import Decision, encode
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.inbox_ids import inbox_id
from contex_server.kernel.model import BEGINNING, Change, Sequence
from contex_server.log.agents import AgentWrite
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.groups import (
    Claimed,
    Demand,
    Gaps,
    GroupState,
    Outcome,
    Settlement,
    Taken,
    Verb,
)
from contex_server.log.redis import client
from contex_server.log.redis.key_names import key
from contex_server.log.redis.store import open_store
from contex_server.log.store import Store
from contex_server.matching.filter_index import exact_match_of
from redis.asyncio import Redis

P, A = "shop", "packer"
FILTER = exact_match_of(0, "", "0a0b0c0d")
WORDS = FILTER._replace(need_id="01020304", exact=False, score=0.7, threshold=0.5)


@pytest.fixture
async def store(valkey: EmbeddedValkey) -> AsyncIterator[Store]:
    opened = await open_store(valkey.url)
    await opened.agents.write_agent(AgentWrite(P, A, b"", b"{}", BEGINNING, "agent", b"x"))
    yield opened
    await opened.events.close()


@pytest.fixture
async def redis(valkey: EmbeddedValkey) -> AsyncIterator[Redis]:
    client = Redis.from_url(valkey.url)
    yield client
    await client.aclose()


class Group:
    """Consumers of the agent, and what has come into its inbox."""

    def __init__(self, store: Store, redis: Redis) -> None:
        self.store, self.redis = store, redis
        self.epoch = 0
        self.count = 0

    async def open(
        self, *consumers: str, start: Sequence = BEGINNING, held: Iterable[str] = ()
    ) -> None:
        for consumer in consumers:
            self.epoch = await self.store.groups.open(P, A, start, consumer, "s" + consumer, held)

    async def decided(self, *keys: str, change: Change = Change.MATCHED) -> list[Sequence]:
        """Adds entries of these data keys; returns their places."""
        places = []
        for name in keys:
            self.count += 1
            event = Sequence(1_000 + self.count, 0)
            matches = (FILTER, WORDS) if self.count % 3 else (WORDS,)
            decision = Decision(change, event, 300 * self.count, name, matches, version=200)
            places.append(inbox_id(event))
            body = encode(decision, event)
            await self.redis.xadd(key(P, f"inbox:{A}"), {"d": body}, id=str(places[-1]))
        return places

    async def take(self, *demands: tuple[str, int], most: int = 100, tries: int = 9) -> Taken:
        asked = [Demand(name, "s" + name, count, 60_000) for name, count in demands]
        taken = await self.store.groups.take(
            P, A, self.epoch, asked, most=most, tries=tries, noted=True
        )
        assert taken is not None
        return taken

    async def one(self, consumer: str = "a", count: int = 1) -> list[Claimed]:
        (claims,) = (await self.take((consumer, count))).claims
        assert claims is not None
        return claims

    async def settle(
        self, verb: Verb, *claims: Claimed, consumer: str = "a", more: str = ""
    ) -> list[Outcome]:
        said = [Settlement(verb, consumer, claim.ref, claim.attempt, more) for claim in claims]
        settled = await self.store.groups.settle(P, A, self.epoch, said, parked=5)
        assert settled is not None
        self.upto = settled.upto
        return settled.outcomes

    async def state(self) -> GroupState:
        state = await self.store.groups.state(P, A, 100)
        assert state is not None
        return state


@pytest.fixture
async def group(store: Store, redis: Redis) -> Group:
    made = Group(store, redis)
    await made.open("a", "b")
    return made


def places(claims: Iterable[Claimed]) -> list[Sequence]:
    return [claim.entry.id for claim in claims]


async def test_deliveries_are_spread_and_taken_once(group: Group, redis: Redis) -> None:
    decided = await group.decided(*"klmnop")
    taken = await group.take(("a", 3), ("b", 10))
    first, second = taken.claims
    assert sorted(places(first + second)) == decided
    assert len(first) == 3
    assert {claim.attempt for claim in first + second} == {1}
    assert (await group.take(("a", 3))).claims == [[]]
    (info,) = await redis.xinfo_groups(key(P, f"inbox:{A}"))
    assert (info["name"], info["pending"]) == (b"consumers", 6)
    assert await group.settle(Verb.ACK, *first) == [Outcome.DONE] * 3
    assert await group.settle(Verb.ACK, *second, consumer="b") == [Outcome.DONE] * 3
    assert group.upto == decided[-1]
    (info,) = await redis.xinfo_groups(key(P, f"inbox:{A}"))
    assert info["pending"] == 0


async def test_deliveries_of_one_key_come_one_after_the_other(group: Group) -> None:
    first, _, third, fourth = await group.decided("k", "l", "k", "k")
    taken = await group.take(("a", 10))
    mine = taken.claims[0]
    assert [claim.entry.id for claim in mine] == [first, Sequence(1_002, 0)]
    assert taken.outstanding == 4
    assert await group.settle(Verb.ACK, mine[0]) == [Outcome.DONE]
    assert group.upto == first
    (then,) = await group.one("b", 10)
    assert (then.entry.id, then.attempt) == (third, 1)
    assert await group.settle(Verb.PARK, then, consumer="b", more="Cbroken") == [Outcome.DONE]
    (last,) = await group.one("b", 10)
    assert last.entry.id == fourth
    assert await group.settle(Verb.ACK, last, consumer="b") == [Outcome.DONE]
    assert await group.one("b", 10) == []


async def test_who_has_no_claim_settles_nothing(group: Group) -> None:
    await group.decided("k")
    (claim,) = await group.one("a")
    assert await group.settle(Verb.ACK, claim, consumer="b") == [Outcome.LOST]
    later = claim._replace(attempt=2)
    assert await group.settle(Verb.ACK, later) == [Outcome.LOST]
    assert await group.settle(Verb.RETRY, claim, more="0") == [Outcome.DONE]
    assert await group.settle(Verb.ACK, claim) == [Outcome.FREE]
    (again,) = await group.one("b")
    assert again.attempt == 2
    for verb in Verb:
        assert await group.settle(verb, claim, more="100") == [Outcome.LOST]
    assert await group.settle(Verb.ACK, again, consumer="b") == [Outcome.DONE]
    assert await group.settle(Verb.ACK, again, consumer="b") == [Outcome.GONE]


async def test_a_retry_waits_and_so_do_others_of_its_key(group: Group) -> None:
    await group.decided("k", "k", "l")
    claim, _ = await group.one(count=10)
    assert await group.settle(Verb.RETRY, claim, more="60000") == [Outcome.DONE]
    taken = await group.take(("a", 10))
    assert taken.claims == [[]]
    assert taken.due_in_ms is not None
    state = await group.state()
    assert (state.outstanding, state.delayed, state.waiting) == (3, 1, 1)
    assert next(c for c in state.consumers if c.name == "a").outstanding == 1
    (blocker,) = await group.store.groups.blockers(P, A, 5)
    assert blocker[:2] == ("k", 1)
    assert (blocker.place, blocker.consumer, blocker.attempt) == (claim.entry.id, "", 1)


async def test_a_claim_runs_out_unless_it_is_extended(group: Group) -> None:
    await group.decided("k", "l")
    short = [Demand("a", "sa", 2, 1)]
    taken = await group.store.groups.take(P, A, group.epoch, short, most=9, tries=9, noted=True)
    assert taken is not None
    kept, lost = taken.claims[0]
    assert await group.settle(Verb.EXTEND, kept, more="60000") == [Outcome.DONE]
    await asyncio.sleep(0.01)
    (again,) = await group.one("b", 10)
    assert (again.entry.id, again.attempt) == (lost.entry.id, 2)
    assert await group.settle(Verb.ACK, lost) == [Outcome.LOST]
    assert await group.settle(Verb.ACK, kept) == [Outcome.DONE]


async def test_what_is_given_back_unseen_was_no_attempt(group: Group) -> None:
    await group.decided("k")
    (claim,) = await group.one()
    assert await group.settle(Verb.GIVE_BACK, claim) == [Outcome.DONE]
    (again,) = await group.one("b")
    assert again.attempt == 1


async def test_what_was_tried_too_often_is_left_to_be_parked(group: Group) -> None:
    await group.decided("k", "k")
    (claim,) = await group.one()
    await group.settle(Verb.RETRY, claim, more="0")
    taken = await group.take(("a", 5), tries=1)
    assert taken.claims == [[]]
    ((ref, attempts),) = taken.exhausted
    assert (ref, attempts) == (claim.ref, 1)
    gone = Settlement(Verb.PARK, "~waiting", ref, attempts, "A")
    settled = await group.store.groups.settle(P, A, group.epoch, [gone], parked=5)
    assert settled is not None
    assert settled.outcomes == [Outcome.DONE]
    (parked,) = await group.store.groups.parked(P, A, BEGINNING, 10)
    assert (parked.entry, parked.attempts, parked.consumer, parked.why) == (claim.entry, 1, "", "A")
    assert len(await group.one()) == 1


async def test_parked_ones_are_redriven_and_dropped(group: Group) -> None:
    decided = await group.decided(*"klmnopq")
    claims = await group.one(count=10)
    outcomes = await group.settle(Verb.PARK, *claims, more="Cwhy")
    assert outcomes == [*[Outcome.DONE] * 5, *[Outcome.FULL] * 2]
    parked = await group.store.groups.parked(P, A, BEGINNING, 10)
    assert [each.entry.id for each in parked] == decided[:5]
    assert {(each.attempts, each.consumer, each.why) for each in parked} == {(1, "a", "Cwhy")}
    later = await group.store.groups.parked(P, A, parked[1].id, 2)
    assert later == parked[2:4]
    groups = group.store.groups
    assert await groups.drop(P, A, [parked[0].id, parked[0].id, Sequence(5, 5)]) == 1
    assert await groups.redrive(P, A, [parked[3].id, parked[1].id, parked[0].id]) == 2
    again = await group.one("b", 10)
    assert places(again) == [decided[3], decided[1]]
    assert {(claim.attempt, claim.redriven) for claim in again} == {(1, True)}
    assert await group.settle(Verb.RETRY, again[0], consumer="b", more="0") == [Outcome.DONE]
    (once_more,) = await group.one("b")
    assert (once_more.entry.id, once_more.attempt, once_more.redriven) == (decided[3], 2, True)
    assert await group.settle(Verb.ACK, once_more, again[1], consumer="b") == [Outcome.DONE] * 2
    assert len(await groups.parked(P, A, BEGINNING, 10)) == 2


async def test_a_redriven_one_waits_for_one_of_its_key(group: Group) -> None:
    await group.decided("k", "k")
    (first,) = await group.one(count=10)
    await group.settle(Verb.PARK, first, more="C")
    (second,) = await group.one()
    (parked,) = await group.store.groups.parked(P, A, BEGINNING, 10)
    await group.store.groups.redrive(P, A, [parked.id])
    assert await group.one("b", 10) == []
    (blocker,) = await group.store.groups.blockers(P, A, 5)
    assert blocker[:2] == ("k", 1)
    await group.settle(Verb.ACK, second)
    (redriven,) = await group.one("b", 10)
    assert redriven.entry == first.entry


async def test_a_bound_on_what_is_outstanding_holds_back_what_is_new(group: Group) -> None:
    await group.decided(*"kkkkl")
    taken = await group.take(("a", 10), most=3)
    assert len(taken.claims[0]) == 1
    assert (taken.blocked, taken.outstanding) == (True, 3)
    (blocker,) = await group.store.groups.blockers(P, A, 5)
    assert blocker[:2] == ("k", 2)
    assert blocker.consumer == "a"
    await group.settle(Verb.ACK, *taken.claims[0])
    taken = await group.take(("a", 10), most=3)
    assert len(taken.claims[0]) == 1


async def test_a_seek_clears_and_fences(group: Group, store: Store, redis: Redis) -> None:
    decided = await group.decided(*"kklmn")
    claims = await group.one(count=3)
    await group.settle(Verb.PARK, claims[2], more="C")
    (parked,) = await store.groups.parked(P, A, BEGINNING, 10)
    await store.groups.redrive(P, A, [parked.id])
    before = group.epoch
    assert await store.groups.seek(P, A, decided[0]) == 3
    said = [Settlement(Verb.ACK, "a", claims[0].ref, 1)]
    assert await store.groups.settle(P, A, before, said, parked=5) is None
    assert await store.groups.take(P, A, before, [], most=5, tries=9, noted=True) is None
    await group.open("a")
    assert group.epoch > before
    assert places(await group.one(count=10)) == decided[1:]
    stored = await store.agents.agent(P, A)
    assert stored is not None
    assert inbox_id(stored.cursor) == decided[0]
    # What was on its way again is parked again.
    (again,) = await store.groups.parked(P, A, BEGINNING, 10)
    assert (again.entry, again.why) == (parked.entry, "S")
    assert await store.groups.seek(P, "nobody", decided[0]) is None


async def test_acknowledging_a_place_settles_everything_up_to_it(
    group: Group, store: Store
) -> None:
    decided = await group.decided(*"kkklkm")
    claims = await group.one(count=2)
    assert len(claims) == 2
    assert await store.agents.acknowledge(P, A, Sequence(1_004, 0)) == Sequence(1_004, 0)
    assert await group.settle(Verb.ACK, *claims) == [Outcome.GONE] * 2
    assert places(await group.one(count=10)) == decided[4:]
    state = await group.state()
    assert (state.outstanding, state.waiting) == (2, 0)
    # Also what nobody has had.
    await group.decided("x", "y")
    await store.agents.acknowledge(P, A, Sequence(1_007, 0))
    assert places(await group.one(count=10)) == [inbox_id(Sequence(1_008, 0))]


async def test_the_cursor_moves_with_what_is_settled(group: Group, store: Store) -> None:
    decided = await group.decided(*"klm")
    first, second, third = await group.one(count=3)
    await group.settle(Verb.ACK, second)
    assert group.upto is None
    await group.settle(Verb.ACK, first)
    assert group.upto == decided[1]
    groups = store.groups
    await groups.settle(P, A, group.epoch, [], cursor=group.upto, parked=5)
    stored = await store.agents.agent(P, A)
    assert stored is not None
    assert stored.cursor == Sequence(1_002, 0)
    await group.settle(Verb.ACK, third)
    assert group.upto == decided[2]


async def test_what_a_consumer_has_no_more_is_given_back_as_it_comes_again(group: Group) -> None:
    await group.decided(*"klm")
    first, second, third = await group.one(count=3)
    await group.open("a", held=[second.ref])
    assert places(await group.one("b", 5)) == places([first, third])
    assert await group.settle(Verb.ACK, second) == [Outcome.DONE]
    assert await group.settle(Verb.ACK, first) == [Outcome.LOST]


async def test_a_change_of_needs_is_not_handed_out(group: Group) -> None:
    await group.decided("", change=Change.REGISTERED)
    (place,) = await group.decided("k")
    (claim,) = await group.one(count=5)
    assert claim.entry.id == place
    assert (await group.state()).outstanding == 1


async def test_deliveries_without_a_key_do_not_wait(group: Group) -> None:
    decided = await group.decided("", "", "")
    assert places(await group.one(count=5)) == decided


async def test_a_stream_of_the_same_name_takes_over(group: Group, store: Store) -> None:
    await group.decided("k")
    await store.groups.open(P, A, BEGINNING, "a", "another", ())
    assert (await group.take(("a", 1))).claims == [None]
    await store.groups.settle(P, A, group.epoch, [], leaving=[("a", "sa")], parked=5)
    demand = Demand("a", "another", 1, 1_000)
    taken = await store.groups.take(P, A, group.epoch, [demand], most=5, tries=9, noted=True)
    assert taken is not None
    assert taken.claims[0]


async def test_consumers_leave(group: Group, redis: Redis, store: Store) -> None:
    await group.decided("k", "l")
    (claim,) = await group.one("a")
    groups = store.groups
    await groups.settle(P, A, group.epoch, [], leaving=[("a", "sa"), ("b", "sb")], parked=5)
    assert {each.name for each in (await group.state()).consumers} == {"a"}
    await group.settle(Verb.ACK, claim)
    await groups.settle(P, A, group.epoch, [], leaving=[("a", "sa")], parked=5)
    assert (await group.state()).consumers == []


async def test_consumers_leave_after_a_seek(group: Group, store: Store) -> None:
    await group.decided("k")
    before = group.epoch
    await store.groups.seek(P, A, BEGINNING)
    await group.open("a", "b")
    await group.take(("a", 0), ("b", 0))
    leaving = [("a", "sa")]
    assert await store.groups.settle(P, A, before, [], leaving=leaving, parked=5) is None
    assert [each.name for each in (await group.state()).consumers] == ["b"]
    assert (await group.take(("a", 1), ("b", 0))).claims == [None, []]


async def trimmed(group: Group, upto: Sequence, base: dict[str, str], counts: str) -> None:
    """Trims as deciders do; `base` are entries by their ids."""
    redis, inbox = group.redis, key(P, f"inbox:{A}")
    rows = {row[0].decode(): row[1] for row in await redis.xrange(inbox)}
    for place in base:
        await redis.xadd(key(P, f"base:{A}"), rows[place], id=place)
    await redis.hset(key(P, "deciding"), f"t{A}", f"{upto} {counts}")
    await redis.xdel(inbox, str(upto))
    await redis.xtrim(inbox, minid=str(upto), approximate=False)


async def test_a_group_behind_what_was_removed_gets_the_latest_and_is_told(group: Group) -> None:
    decided = await group.decided(*"kklklmn")
    kept = {str(decided[2]): "l", str(decided[3]): "k"}
    first = await group.one(count=1)
    await trimmed(group, decided[4], {str(decided[3]): "k", str(decided[4]): "l"}, "2 1")
    del kept
    taken = await group.take(("a", 1))
    assert taken.missed == Gaps(2, 1, 0)
    # The first of `k` is still with somebody: the later one waits for it.
    assert places(taken.claims[0]) == [decided[4]]
    assert places(await group.one(count=10)) == decided[5:]
    await group.settle(Verb.ACK, *first)
    assert places(await group.one(count=10)) == [decided[3]]
    state = await group.state()
    assert state.missed == Gaps(2, 1, 0)
    assert state.backlog == 0


async def test_what_was_removed_while_it_was_outstanding_is_counted(group: Group) -> None:
    decided = await group.decided(*"kkl")
    first, third = await group.one(count=10)
    await trimmed(group, decided[2], {str(decided[1]): "k", str(decided[2]): "l"}, "0 0")
    await group.settle(Verb.RETRY, first, third, more="0")
    found: list[Claimed] = []
    taken = await group.take(("b", 10))
    found += taken.claims[0]
    lost = taken.missed.removed
    taken = await group.take(("b", 10))
    found += taken.claims[0]
    lost += taken.missed.removed
    assert sorted(places(found)) == decided[1:]
    assert lost == 1
    assert (await group.state()).missed == Gaps(0, 0, 1)


async def test_consuming_goes_on_while_the_store_is_full(group: Group, redis: Redis) -> None:
    decided = await group.decided(*"klm")
    used = (await redis.info("memory"))["used_memory"]
    await redis.config_set("maxmemory", used - 1)
    try:
        await group.open("a", "b")
        claims = await group.one(count=3)
        assert places(claims) == decided
        assert await group.settle(Verb.ACK, claims[0]) == [Outcome.DONE]
        assert await group.settle(Verb.RETRY, claims[1], more="5000") == [Outcome.DONE]
        with pytest.raises(ContexError) as refused:
            await group.settle(Verb.PARK, claims[2], more="C")
        assert refused.value.reason is Reason.STORE_FULL
        assert (await group.state()).outstanding == 2
    finally:
        await redis.config_set("maxmemory", 0)
    assert await group.settle(Verb.PARK, claims[2], more="C") == [Outcome.DONE]


async def test_registering_anew_and_leaving_end_the_group(
    group: Group, store: Store, redis: Redis
) -> None:
    await group.decided(*"kl")
    (claim,) = await group.one()
    await group.settle(Verb.PARK, claim, more="C")
    write = AgentWrite(P, A, b"{}", b"{1}", Sequence(7, 0), "agent", b"x")
    await store.agents.write_agent(write)
    assert await store.groups.state(P, A, 9) is None
    assert len(await store.groups.parked(P, A, BEGINNING, 9)) == 1
    assert await store.groups.open(P, A, BEGINNING, "a", "sa", ()) == 0
    await group.open("a", start=inbox_id(Sequence(7, 0)))
    await group.one()
    await store.agents.write_agent(AgentWrite(P, A, b"{1}", b"", None, "agent", b"x"))
    left = [name async for name in redis.scan_iter(key(P, "*")) if b":packer" in name]
    assert {name.decode().split(":")[-2] for name in left} == {"inbox", "journal"}
    assert await store.groups.open(P, A, inbox_id(Sequence(7, 0)), "a", "sa", ()) == 0
    assert await store.groups.state(P, A, 9) is None


async def test_a_change_of_needs_that_was_removed_holds_nothing_up(group: Group) -> None:
    (needs,) = await group.decided("", change=Change.REGISTERED)
    (kept,) = await group.decided("k")
    await trimmed(group, kept, {str(needs): "", str(kept): "k"}, "0 0")
    (claim,) = await group.one(count=5)
    assert claim.entry.id == kept
    assert await group.settle(Verb.ACK, claim) == [Outcome.DONE]
    assert group.upto == kept


async def test_the_cursor_stays_before_what_is_outstanding_when_later_ones_are_removed(
    group: Group,
) -> None:
    decided = await group.decided(*"klm")
    (first,) = await group.one()
    await trimmed(group, decided[1], {str(decided[0]): "k", str(decided[1]): "l"}, "0 0")
    second, third = await group.one(count=5)
    await group.settle(Verb.ACK, third)
    assert group.upto is None
    await group.settle(Verb.ACK, second)
    assert group.upto is None
    await group.settle(Verb.ACK, first)
    assert group.upto == decided[2]


async def test_the_latest_of_a_datum_comes_again_first_when_it_was_removed(group: Group) -> None:
    decided = await group.decided(*"lk")
    other, first = await group.one(count=5)
    decided += await group.decided("k", "k")
    assert await group.one(count=5) == []
    await trimmed(group, decided[1], {str(decided[0]): "l", str(decided[1]): "k"}, "0 0")
    await group.settle(Verb.ACK, other)
    await group.settle(Verb.RETRY, first, more="0")
    assert group.upto is None
    for place in decided[1:]:
        (claim,) = await group.one("b", 5)
        assert claim.entry.id == place
        assert await group.settle(Verb.ACK, claim, consumer="b") == [Outcome.DONE]
    assert group.upto == decided[-1]


async def test_what_was_removed_can_be_extended_and_settled(group: Group) -> None:
    decided = await group.decided("k", "k")
    (claim,) = await group.one()
    await trimmed(group, decided[0], {str(decided[0]): "k"}, "0 0")
    assert await group.settle(Verb.EXTEND, claim, more="60000") == [Outcome.DONE]
    assert await group.settle(Verb.ACK, claim) == [Outcome.DONE]
    (later,) = await group.one()
    assert later.entry.id == decided[1]


async def test_what_is_redriven_while_there_is_no_group_comes(group: Group, store: Store) -> None:
    await group.decided("k", "l")
    first, second = await group.one(count=2)
    await group.settle(Verb.PARK, first, second, more="C")
    (parked, other) = await store.groups.parked(P, A, BEGINNING, 9)
    assert await store.groups.redrive(P, A, [other.id]) == 1
    await group.one()
    # It is asked for more of the past: what was on its way again is parked again.
    write = AgentWrite(P, A, b"{}", b"{1}", Sequence(1_002, 0), "agent", b"x")
    await store.agents.write_agent(write)
    parked, other = await store.groups.parked(P, A, BEGINNING, 9)
    assert (other.entry, other.attempts, other.why) == (second.entry, 1, "S")
    assert await store.groups.redrive(P, A, [parked.id]) == 1
    await group.open("a", start=inbox_id(Sequence(1_002, 0)))
    (again,) = await group.one(count=5)
    assert (again.entry, again.redriven) == (first.entry, True)


async def test_a_stream_is_not_let_in_again_once_it_is_replaced(group: Group, store: Store) -> None:
    await group.decided("k")
    open_group = store.groups.open
    assert await open_group(P, A, BEGINNING, "a", "sa", (), again=True) == group.epoch
    assert await open_group(P, A, BEGINNING, "a", "another", ()) == group.epoch
    demand = Demand("a", "another", 1, 60_000)
    taken = await store.groups.take(P, A, group.epoch, [demand], most=5, tries=9, noted=True)
    assert taken is not None
    assert await open_group(P, A, BEGINNING, "a", "sa", (), again=True) is None
    assert await group.settle(Verb.ACK, *taken.claims[0]) == [Outcome.DONE]


async def test_nothing_is_left_of_consumers_whose_claims_are_settled_for_them(
    group: Group, store: Store
) -> None:
    decided = await group.decided("k", "l")
    (first,) = await group.one("a")
    await group.one("b")
    leaving = [("a", "sa"), ("b", "sb")]
    await store.groups.settle(P, A, group.epoch, [], leaving=leaving, parked=5)
    await group.settle(Verb.ACK, first)
    assert [each.name for each in (await group.state()).consumers] == ["b"]
    await store.agents.acknowledge(P, A, Sequence(1_002, 0))
    assert (await group.state()).consumers == []
    assert decided


async def test_nothing_is_left_of_consumers_whose_server_was_killed(
    valkey: EmbeddedValkey, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, shipped = client._FUNCTIONS, "LEFT_MS = 3600000"
    assert shipped in text
    monkeypatch.setattr(client, "_FUNCTIONS", text.replace(shipped, "LEFT_MS = 20"))
    store = await open_store(valkey.url)
    await store.agents.write_agent(AgentWrite(P, A, b"", b"{}", BEGINNING, "agent", b"x"))
    group = Group(store, redis)
    await group.open("a", "b")
    await group.decided("k")
    await group.take(("a", 1), ("b", 1))
    await asyncio.sleep(0.03)
    await group.open("c")
    assert [each.name for each in (await group.state()).consumers] == ["a"]
    assert (await group.take(("b", 1))).claims == [None]
    await store.events.close()
