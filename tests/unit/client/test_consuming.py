"""What a consumer knows of its claims, without a network."""

from __future__ import annotations

import pytest
from contex import ClaimLost, ConsumerReplaced, ResourceExhausted
from contex.consuming import Claim, Consuming, Saying, unique_name
from contex.errors import from_refusal
from contex.v1 import consumer_pb2 as pb
from contex.v1 import event_service_pb2


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> Consuming:
    start = pb.ConsumeStart(consumer="w", max_outstanding_messages=9)
    return Consuming(start, deadline_s=10.0, max_extension_s=30.0, until_idle=True, clock=clock)


def give(state: Consuming, *names: str) -> None:
    deliveries = pb.ConsumerDeliveries(
        deliveries=[pb.ConsumerDelivery(delivery_id=n) for n in names]
    )
    state.on_message(pb.ConsumeResponse(deliveries=deliveries))


def take(state: Consuming) -> Claim:
    claim = state.take()
    assert claim is not None
    return claim


def answer(state: Consuming, number: int, **fields: object) -> list[Saying]:
    settled = pb.Settled(settle_id=number, **fields)  # type: ignore[arg-type]
    return state.on_message(pb.ConsumeResponse(settled=settled))


def test_what_is_said_together_goes_in_one_message(state: Consuming) -> None:
    give(state, *"abcd")
    claims = [take(state) for _ in range(4)]
    for claim in claims[:3]:
        state.say(claim, "ack")
    state.say(claims[3], "retry", 2.5)
    first, second = state.next_requests()
    assert list(first.settle.delivery_ids) == ["a", "b", "c"]
    assert first.settle.HasField("ack")
    assert second.settle.retry.delay.ToMilliseconds() == 2_500
    assert state.next_requests() == []
    assert not state.has_requests


def test_a_new_call_goes_on_with_what_is_held_and_says_it_again(
    state: Consuming, clock: Clock
) -> None:
    give(state, *"abc")
    claim = take(state)
    saying = state.say(claim, "ack")
    (said,) = state.next_requests()
    start, again, extend = state.begin()
    assert list(start.start.held_delivery_ids) == ["a", "b", "c"]
    assert again == said
    assert list(extend.extend.delivery_ids) == ["b", "c"]
    # Nobody else could have had it: it was done the first time.
    clock.now += 9.0
    answer(state, said.settle.settle_id, lost_delivery_ids=["a"])
    assert (saying.waiting, saying.error) == (False, None)
    assert state.lost_count == 0


def test_what_may_have_gone_to_others_meanwhile_is_lost(state: Consuming, clock: Clock) -> None:
    give(state, "a")
    saying = state.say(take(state), "ack")
    (said,) = state.next_requests()
    clock.now += 11.0
    state.begin()
    assert answer(state, said.settle.settle_id, lost_delivery_ids=["a"]) == [saying]
    assert isinstance(saying.error, ClaimLost)
    assert saying.error.delivery_id == "a"
    assert "which may have been done" in saying.error.message
    assert state.lost_count == 1


def test_what_was_said_in_vain_changed_nothing(state: Consuming) -> None:
    give(state, "a")
    saying = state.say(take(state), "ack")
    (said,) = state.next_requests()
    answer(state, said.settle.settle_id, lost_delivery_ids=["a"])
    assert saying.error is not None
    assert "done" not in saying.error.message


def test_what_has_run_out_is_not_handed_out(state: Consuming, clock: Clock) -> None:
    give(state, "a")
    clock.now += 5.0
    give(state, "b")
    clock.now += 5.0
    assert take(state).message.delivery_id == "b"
    state.tick()
    assert state.lost_count == 1


def test_claims_are_extended_so_long_and_no_longer(state: Consuming, clock: Clock) -> None:
    give(state, "a", "b")
    claim = take(state)
    assert not state.tick()
    extended = 0
    for _ in range(20):
        clock.now += state.tick_s
        if state.tick():
            for request in state.next_requests():
                extended += 1
                answer(state, request.extend.settle_id)
    assert extended == pytest.approx(30 / state.tick_s / 2, abs=4)
    assert not state.holds(claim)
    assert clock.now - 100.0 > 30.0
    assert state.lost_count == 2


def test_an_idle_counts_that_is_told_when_nothing_is_held(state: Consuming) -> None:
    give(state, "a")
    claim = take(state)
    idle = pb.ConsumeResponse(idle=pb.Idle(outstanding_count=1))
    state.on_message(idle)
    assert not state.has_news
    state.say(claim, "ack")
    (said,) = state.next_requests()
    answer(state, said.settle.settle_id)
    assert not state.has_news
    state.on_message(idle)
    assert state.idle
    assert state.has_news
    assert state.take() is None


def test_what_was_extended_for_long_stays_so(state: Consuming, clock: Clock) -> None:
    give(state, "a")
    claim = take(state)
    state.say(claim, "extend", 3600.0)
    (said,) = state.next_requests()
    answer(state, said.extend.settle_id)
    clock.now += 60.0
    assert state.holds(claim)
    (start,) = state.begin()
    assert list(start.start.held_delivery_ids) == ["a"]


def test_what_is_not_parked_is_still_held(state: Consuming) -> None:
    give(state, "a")
    claim = take(state)
    for reason, text in (("STORE_FULL", "no room"), ("", "as many")):
        saying = state.say(claim, "park", "why")
        (said,) = state.next_requests()
        assert said.settle.park.reason == "why"
        answer(state, said.settle.settle_id, refused_delivery_ids=["a"], refused_reason=reason)
        assert isinstance(saying.error, ResourceExhausted)
        assert saying.error.reason == reason
        assert text in saying.error.message
        assert state.holds(claim)


def test_leaving_gives_back_what_is_not_settled(state: Consuming) -> None:
    give(state, "a", "b", "c")
    claim = take(state)
    state.say(claim, "skip")
    state.leave()
    drain, skip, back = state.next_requests()
    assert drain.HasField("drain")
    assert skip.settle.HasField("skip")
    assert list(back.settle.delivery_ids) == ["b", "c"]
    assert back.settle.retry.delay.ToMilliseconds() == 0
    assert state.next_requests() == []  # which ends the client's side
    assert state.has_requests
    assert state.on_end() is not None  # not all is answered
    for request in (skip, back):
        answer(state, request.settle.settle_id)
    assert state.on_end() is None


def test_one_that_was_replaced_does_not_come_back(state: Consuming) -> None:
    error = from_refusal(event_service_pb2.Refusal(code=10, reason="CONSUMER_REPLACED"))
    assert isinstance(error, ConsumerReplaced)
    with pytest.raises(ConsumerReplaced):
        state.on_error(error)
    give(state, "a")
    saying = state.say(take(state), "ack")
    state.end(error)
    assert saying.error is error
    with pytest.raises(ConsumerReplaced):
        state.take()


def test_a_name_that_no_other_has() -> None:
    assert unique_name() != unique_name()
    assert len(unique_name()) <= 128
