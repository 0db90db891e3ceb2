"""What a consumer has and has said, across all its calls. No I/O: the delivery streams drive it.

A driver opens a call with the requests of `begin`, sends those of `next_requests` as they come up,
and passes each message to `on_message`. When a call breaks, it passes the error to `on_error`, or
calls `on_end` or `on_silence`, and opens the next after the wait that it is told.

Why nothing is lost or settled twice: a new call names every claim that is held, and what was said
without being answered is said again, in the same words. Who has a claim for certain is known by the
clock alone: from its deadline on nobody acts on it, whatever was not heard yet.
"""

from __future__ import annotations

import os
import re
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from .backoff import Backoff
from .errors import ClaimLost, ContexError, ResourceExhausted, Unavailable
from .lazy import agents, consumer_pb2

if TYPE_CHECKING:
    from .agents import Blocked, Missed

HEARTBEAT_S = 15.0
_MISSED_HEARTBEATS = 3
_MAX_IDS = 1_000
"""Deliveries that one message may name."""
_TICKS = 4
"""Looks at each claim during a deadline; one that has less than all but one of them is extended."""

_UNHEARD = (
    "the connection broke before the answer to what was said of it, which may have been done, and "
    "its deadline has passed since"
)


class Answered(Protocol):
    """Lets whoever waits for an answer go on."""

    def set(self) -> None:
        """There is one."""


class Claim:
    """A delivery that the consumer has.

    Attributes:
        message: The delivery, as it came.
        until: When the claim runs out, by the clock.
        extended_until: Up to when it is extended by itself.
        saying: What is being said of it, or was.
        lost: Somebody else may have it.
    """

    __slots__ = ("extended_until", "lost", "message", "saying", "until")

    def __init__(
        self, message: consumer_pb2.ConsumerDelivery, until: float, extended_until: float
    ) -> None:
        self.message = message
        self.until = until
        self.extended_until = extended_until
        self.saying: Saying | None = None
        self.lost = False


class Saying:
    """What is said of one claim: how it is settled, or that it is to last longer.

    Attributes:
        kind: The field of `Settle` that says it; "extend".
        argument: The delay in seconds, the reason, or how long the claim is to last.
        answered: Somebody waits for the answer; None: nobody does.
        error: Why it is not as was said, once that is known.
        waiting: There is no answer yet.
    """

    __slots__ = ("answered", "argument", "claim", "error", "kind", "waiting")

    def __init__(
        self, claim: Claim, kind: str, argument: float | str | None, answered: Answered | None
    ) -> None:
        self.claim = claim
        self.kind = kind
        self.argument = argument
        self.answered = answered
        self.error: ContexError | None = None
        self.waiting = True

    def finish(self, error: ContexError | None = None) -> None:
        """Notes the answer."""
        self.error, self.waiting = error, False
        if self.answered is not None:
            self.answered.set()


class _Order:
    """A message that awaits its answer.

    Attributes:
        told_at: When it was last sent.
        repeated: It was sent before, and may have been done.
    """

    __slots__ = ("claims", "repeated", "request", "sayings", "seconds", "told_at")

    def __init__(
        self,
        request: consumer_pb2.ConsumeRequest,
        claims: Sequence[Claim],
        sayings: Sequence[Saying],
        seconds: float,
        told_at: float,
    ) -> None:
        self.request = request
        self.claims = claims
        self.sayings = sayings
        self.seconds = seconds
        self.told_at = told_at
        self.repeated = False


class Consuming:
    """What is known about a consumer across all its calls.

    Args:
        start: The first message; later calls name the claims that are held, besides.
        deadline_s: How long a claim lasts.
        max_extension_s: How long a claim is extended at most, from when it came.
        until_idle: Whether it ends when there is nothing to be had and nothing is held.
        reconnect: Whether a break is mended; if not, it is raised.
        backoff: Computes the waits between calls.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        start: consumer_pb2.ConsumeStart,
        *,
        deadline_s: float,
        max_extension_s: float,
        until_idle: bool = False,
        reconnect: bool = True,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start = start
        self._deadline_s = deadline_s
        self._max_extension_s = max_extension_s
        self._until_idle = until_idle
        self._reconnect = reconnect
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._claims: dict[str, Claim] = {}
        self._ready: deque[Claim] = deque()
        """Not handed out yet."""
        self._said: list[Saying] = []
        """Not sent yet."""
        self._orders: dict[int, _Order] = {}
        """Sent, and not answered."""
        self._number = 0
        self._extends = False
        self._tells_drain = False
        self._leaving = False
        self._failure: Exception | None = None
        self._connected = False
        self.idle = False
        """Nothing is held, and when the server said so last, there was nothing to be had."""
        self.draining = False
        self.over = False
        self.lost_count = 0
        self.reconnects = 0
        self.missed: Missed = agents.Missed(0, 0, 0)
        self.blocked: Blocked | None = None

    # -- what the user of the stream does ---------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """Whether there is a delivery to be handed out, or none will be."""
        return bool(self._ready) or self._is_ended

    @property
    def _is_ended(self) -> bool:
        return self.draining or self.over or (self._until_idle and self.idle)

    def take(self) -> Claim | None:
        """Hands out a delivery; None if there are none, which is the end if there was news.

        Raises:
            Exception: The stream has failed.
        """
        while self._ready and not self.draining:
            claim = self._ready.popleft()
            if self.holds(claim):
                return claim
        if self._failure is not None:
            raise self._failure
        return None

    def holds(self, claim: Claim) -> bool:
        """Whether nobody else can have a delivery; one that was settled is nobody's."""
        return not (claim.lost or self.over) and self._clock() < claim.until

    def say(
        self,
        claim: Claim,
        kind: str,
        argument: float | str | None = None,
        answered: Answered | None = None,
    ) -> Saying:
        """Notes what is to be said of a claim.

        Raises:
            ClaimLost: It is lost.
            RuntimeError: It is settled, or is being settled.
        """
        if claim.lost:
            raise _lost(claim, "the stream was left" if self._leaving else "")
        if claim.saying is not None:
            raise RuntimeError(f"the delivery is settled already: {claim.saying.kind}")
        if self.over:
            raise _lost(claim, "the stream has ended")
        saying = Saying(claim, kind, argument, answered)
        if kind != "extend":
            claim.saying = saying
        self._said.append(saying)
        return saying

    def drain(self) -> None:
        """Nothing more is to be handed out; what is in hand can be settled."""
        self._tells_drain = self._tells_drain or not self.draining
        self.draining = True
        for claim in self._ready:
            self._give_back(claim)
        self._ready.clear()

    def _give_back(self, claim: Claim) -> None:
        """Gives back what was not handed out."""
        if claim.saying is None and not (claim.lost or self.over):
            self.say(claim, "give_back")
            claim.lost = True

    def leave(self) -> None:
        """Gives back what is not settled, and ends once all is answered."""
        if self._leaving or self.over:
            return
        self.drain()
        self._leaving = True
        for claim in self._claims.values():
            if claim.saying is None and not claim.lost:
                self.say(claim, "retry", 0.0)
                claim.lost = True

    # -- what is sent -----------------------------------------------------------------------------

    @property
    def silence_limit_s(self) -> float:
        """Seconds without a message after which a connection is considered broken."""
        return _MISSED_HEARTBEATS * HEARTBEAT_S

    @property
    def tick_s(self) -> float:
        """How often to call `tick`."""
        return self._deadline_s / _TICKS

    @property
    def has_business(self) -> bool:
        """Whether there is a server, or something is to be said to one."""
        return self._connected or bool(self._said or self._orders)

    def tick(self) -> bool:
        """Notes which claims have run out; whether some are to be extended."""
        now = self._clock()
        for claim in [*self._claims.values()]:
            if claim.until <= now and claim.saying is None:
                self._lose(claim)
        self._extends = bool(self._due(now))
        return self._extends

    def _due(self, now: float) -> list[Claim]:
        most = self._deadline_s * (_TICKS - 1) / _TICKS
        return [
            claim
            for claim in self._claims.values()
            if claim.saying is None and claim.until - now < most and now < claim.extended_until
        ]

    def begin(self) -> list[consumer_pb2.ConsumeRequest]:
        """The first messages of a call."""
        now = self._clock()
        self._connected = False
        self._orders = {n: order for n, order in self._orders.items() if order.sayings}
        for order in self._orders.values():
            order.repeated, order.told_at = True, now
        ready = {*map(id, self._ready)}
        held = sorted(self._claims.values(), key=lambda claim: id(claim) in ready)
        for claim in held[_MAX_IDS:]:  # never those in hand
            self._lose(claim)
        start = consumer_pb2.ConsumeStart()
        start.CopyFrom(self._start)
        start.held_delivery_ids.extend([claim.message.delivery_id for claim in held[:_MAX_IDS]])
        requests = [consumer_pb2.ConsumeRequest(start=start)]
        self._tells_drain = self.draining
        requests += [order.request for order in self._orders.values()]
        # Tells soon which of them were lost meanwhile.
        until = now + self._deadline_s  # what was extended further stays so
        some = [c for c in held[:_MAX_IDS] if c.saying is None and c.until <= until]
        requests += self._extensions(some, now)
        return requests

    @property
    def has_requests(self) -> bool:
        """Whether there is something to be sent, or nothing more will be."""
        more = self._said or self._extends or self._tells_drain
        return bool(more) or self._leaving

    def next_requests(self) -> list[consumer_pb2.ConsumeRequest]:
        """What is to be sent now; nothing: that was all."""
        now, requests = self._clock(), list[consumer_pb2.ConsumeRequest]()
        if self._tells_drain:
            self._tells_drain = False
            requests.append(consumer_pb2.ConsumeRequest(drain=consumer_pb2.Drain()))
        said, self._said = self._said, []
        alike: dict[tuple[str, float | str | None], list[Saying]] = {}
        for saying in said:
            alike.setdefault((saying.kind, saying.argument), []).append(saying)
        for (kind, argument), sayings in alike.items():
            for start in range(0, len(sayings), _MAX_IDS):
                requests.append(self._order(kind, argument, sayings[start : start + _MAX_IDS], now))
        if self._extends:
            self._extends = False
            requests += self._extensions(self._due(now), now)
        return requests

    def _order(
        self, kind: str, argument: float | str | None, sayings: list[Saying], now: float
    ) -> consumer_pb2.ConsumeRequest:
        claims, number = [saying.claim for saying in sayings], self._next_number()
        ids = [claim.message.delivery_id for claim in claims]
        seconds = 0.0
        if kind == "extend":
            seconds = float(argument or self._deadline_s)
            request = _extend(number, ids, seconds)
        else:
            settle = consumer_pb2.Settle(settle_id=number, delivery_ids=ids)
            outcome = getattr(settle, kind)
            outcome.SetInParent()
            if kind == "park":
                outcome.reason = str(argument)
            elif kind == "retry" and argument is not None:
                outcome.delay.FromMilliseconds(round(float(argument) * 1_000))
            request = consumer_pb2.ConsumeRequest(settle=settle)
        self._orders[number] = _Order(request, claims, sayings, seconds, now)
        return request

    def _extensions(self, claims: list[Claim], now: float) -> Iterable[consumer_pb2.ConsumeRequest]:
        for start in range(0, len(claims), _MAX_IDS):
            some, number = claims[start : start + _MAX_IDS], self._next_number()
            ids = [claim.message.delivery_id for claim in some]
            request = _extend(number, ids, self._deadline_s)
            self._orders[number] = _Order(request, some, (), self._deadline_s, now)
            yield request

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    # -- what is received -------------------------------------------------------------------------

    def on_message(self, message: consumer_pb2.ConsumeResponse) -> list[Saying]:
        """Takes a message.

        Returns:
            What was said of claims that were lost, and that nobody waits for.
        """
        self._backoff.reset()
        self._connected = True
        unheard: list[Saying] = []
        match message.WhichOneof("message"):
            case "deliveries":
                self._on_deliveries(message.deliveries.deliveries)
            case "settled":
                unheard = self._on_settled(message.settled)
            case "lost":
                for name in message.lost.delivery_ids:
                    claim = self._claims.get(name)
                    if claim is not None and claim.saying is None:
                        self._lose(claim)
            case "idle":
                # What is settled may make something ready: it is told again after that.
                self.idle = not self._claims
            case "missed":
                more, before = message.missed, self.missed
                self.missed = agents.Missed(
                    before.superseded_count + more.superseded_count,
                    before.dropped_count + more.dropped_count,
                    before.removed_count + more.removed_count,
                )
            case "blocked":
                self.blocked = agents.blocked(message.blocked)
        return unheard

    def _on_deliveries(self, deliveries: Iterable[consumer_pb2.ConsumerDelivery]) -> None:
        now = self._clock()
        self.idle, self.blocked = False, None
        if self._leaving:  # the server gives them back as the stream ends
            return
        for delivery in deliveries:
            until, extended_until = now + self._deadline_s, now + self._max_extension_s
            claim = Claim(delivery, until, extended_until)
            self._claims[delivery.delivery_id] = claim
            if self.draining:
                self._give_back(claim)
            else:
                self._ready.append(claim)

    def _on_settled(self, settled: consumer_pb2.Settled) -> list[Saying]:
        order = self._orders.pop(settled.settle_id, None)
        if order is None:
            return []
        lost, refused = {*settled.lost_delivery_ids}, {*settled.refused_delivery_ids}
        if order.request.HasField("extend"):
            self._on_extended(order, lost)
            return []
        unheard: list[Saying] = []
        for saying in order.sayings:
            claim, name = saying.claim, saying.claim.message.delivery_id
            if name in refused:
                claim.saying = None
                saying.finish(_refused(settled.refused_reason))
                continue
            # Said before, and nobody else could have had it since: it was done that time.
            was_done = order.repeated and order.told_at < claim.until
            if name in lost and not was_done:
                self._lose(claim)
                saying.finish(_lost(claim, _UNHEARD if order.repeated else ""))
                if saying.answered is None:
                    unheard.append(saying)
            else:
                self._claims.pop(name, None)
                saying.finish()
        return unheard

    def _on_extended(self, order: _Order, lost: set[str]) -> None:
        for claim in order.claims:
            if claim.message.delivery_id not in lost:
                claim.until = max(claim.until, order.told_at + order.seconds)
            elif claim.saying is None:  # what is said of it has an answer of its own
                self._lose(claim)
        for saying in order.sayings:
            saying.finish(_lost(saying.claim) if saying.claim.lost else None)

    def _lose(self, claim: Claim) -> None:
        claim.lost = True
        if self._claims.pop(claim.message.delivery_id, None) is not None:
            self.lost_count += 1

    # -- how it ends ------------------------------------------------------------------------------

    def on_error(self, error: ContexError) -> float | None:
        """Takes the error that a call ended with.

        Returns:
            Seconds to wait before the next call; None if nothing is left to be said.

        Raises:
            ContexError: `error` itself, if a new call would not help.
        """
        if not (self._reconnect and self._backoff.may_resume(error)):
            raise error
        return self._broken(error.retry_after)

    def on_end(self) -> float | None:
        """Takes the end of a call without an error."""
        if not (self._reconnect or self._leaving):
            raise Unavailable("the server ended the stream", grpc.StatusCode.UNAVAILABLE)
        return self._broken(None)

    def on_silence(self) -> float | None:
        """Notes that nothing was received for `silence_limit_s`."""
        if not self._reconnect:
            message = f"no message for {self.silence_limit_s:g} s"
            raise Unavailable(message, grpc.StatusCode.UNAVAILABLE)
        return self._broken(None)

    def _broken(self, retry_after: float | None) -> float | None:
        settling = any(order.sayings for order in self._orders.values())
        if self._leaving and not (settling or self._said):
            return None
        self.reconnects += 1
        return self._backoff.next_delay(retry_after)

    def end(self, failure: Exception | None = None) -> None:
        """Nothing more comes, and nothing that was said is answered any more."""
        self._failure = self._failure or failure
        self.over = self.draining = True
        said = [saying for order in self._orders.values() for saying in order.sayings]
        for saying in (*said, *self._said):
            if saying.waiting:
                why = "the stream has ended before it was answered"
                error = failure if isinstance(failure, ContexError) else _lost(saying.claim, why)
                saying.finish(error)
        self._orders.clear()
        self._said.clear()
        self._claims.clear()
        self._ready.clear()


def unique_name() -> str:
    """A name for a consumer that no other has."""
    host = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:80]
    return f"{host.lstrip('_.-') or 'host'}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _extend(number: int, ids: list[str], seconds: float) -> consumer_pb2.ConsumeRequest:
    extend = consumer_pb2.Extend(settle_id=number, delivery_ids=ids)
    extend.ack_deadline.FromMilliseconds(round(seconds * 1_000))
    return consumer_pb2.ConsumeRequest(extend=extend)


def _lost(claim: Claim, why: str = "") -> ClaimLost:
    event: Any = claim.message.matched.event
    name = event.data_key or event.sequence
    why = why or "its deadline has passed, it was settled elsewhere, or the consumers were moved"
    return ClaimLost(
        f"the delivery of {name} is no longer this consumer's: {why}",
        grpc.StatusCode.FAILED_PRECONDITION,
        metadata={"delivery_id": claim.message.delivery_id},
    )


def _refused(reason: str) -> ResourceExhausted:
    message = "not parked: as many deliveries are parked as may be; redrive or drop some"
    if reason:
        message = "not parked: the store has no room"
    return ResourceExhausted(message, grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
